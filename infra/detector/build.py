"""The build step: fetch, convert, check, put in place."""

from collections.abc import Callable
from pathlib import Path
from tempfile import NamedTemporaryFile

from infra.detector.check import problems
from infra.detector.errors import BuildError
from infra.detector.npm import Package, fetch
from infra.detector.tfjs import read_graph

PACKAGE = Package(
    name="@vladmandic/human",
    version="3.3.6",
    integrity="sha512-Nr5mPfq1gQ+uKeXY5uM3Fj8UxvF5CEh2s6txM5wRThqaW0mF9huooOuZSrT8hhGho0hGaXLFdAwfD/2+teCv6A==",
)
MODEL, WEIGHTS = "models/centernet.json", "models/centernet.bin"
NAME = "centernet-mobilenetv3-coco"
INPUTS = {"tower_0/images": (1, 3, 512, 512)}
# All that comes after these in the original, the search for peaks, is our decoder's.
OUTPUTS = {"tower_0/keypoints": (1, 80, 128, 128), "tower_0/wh": (1, 4, 128, 128)}
NOTES = {"source": f"{PACKAGE}, {MODEL}", "licence": "MIT"}


def build(output: Path, *, say: Callable[[str], None] = print) -> None:
    """Leaves a detector at `output` that sees what is on our photographs; does nothing if there is one already.

    Raises BuildError, and OSError for a place that cannot be written; `output` is then as it was.
    """
    if output.exists():
        wrong = list(problems(output))
        if not wrong:
            say(f"detector: {output} is there and works")
            return
        say(f"detector: {output} has to be made anew: {'; '.join(wrong)}")
    say(f"detector: fetching {PACKAGE} with npm")
    files = fetch(PACKAGE, (MODEL, WEIGHTS))
    say(f"detector: converting {MODEL} to ONNX")
    model = _converted(files)
    output.parent.mkdir(parents=True, exist_ok=True)
    # beside its place, so that nobody ever sees half a file there
    with NamedTemporaryFile(dir=output.parent, prefix=f".{output.name}.", delete=False) as file:
        draft = Path(file.name)
    try:
        draft.write_bytes(model)
        say("detector: checking what it sees on the sample photographs")
        if wrong := list(problems(draft)):
            raise BuildError(f"the converted model does not work: {'; '.join(wrong)}")
        draft.chmod(0o644)
        draft.replace(output)
    finally:
        draft.unlink(missing_ok=True)
    say(f"detector: {output}, {len(model) / 1e6:.1f} MB, MIT licence; HEADWAY_DETECTOR is to name it")


def _converted(files: dict[str, bytes]) -> bytes:
    from infra.detector.convert import convert  # noqa: PLC0415 - onnx is slow to import, and seldom needed

    model = convert(read_graph(files[MODEL], files[WEIGHTS]), NAME, INPUTS, OUTPUTS, NOTES)
    return bytes(model.SerializeToString())
