"""What a removal counts: the household things among what a COCO detector can see, and the room that each takes up.

docs/photos.md says for each what piece was thought of, and why other things are left out.
"""

LITRES: dict[str, int] = {
    "bed": 1_500,
    "bench": 400,
    "bicycle": 500,
    "book": 2,
    "bowl": 5,
    "chair": 300,
    "clock": 10,
    "couch": 1_500,
    "dining table": 600,
    "hair drier": 5,
    "keyboard": 5,
    "laptop": 10,
    "microwave": 80,
    "oven": 300,
    "potted plant": 100,
    "refrigerator": 700,
    "skis": 50,
    "snowboard": 50,
    "suitcase": 100,
    "surfboard": 200,
    "teddy bear": 20,
    "toaster": 20,
    "tv": 200,
    "vase": 10,
}
"""Label: litres in the van, packed. Whole litres, so that sums are exact to the third decimal of a cubic metre."""
