"""`make detector`"""

import argparse
import os
import sys
from pathlib import Path

from infra.detector.build import build
from infra.detector.errors import BuildError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.detector", description="Build the object detector.")
    home = Path(os.environ.get("HEADWAY_HOME") or ".headway")
    parser.add_argument("--output", type=Path, default=home / "detector.onnx", help="default: %(default)s")
    try:
        build(parser.parse_args().output)
    except (BuildError, OSError) as error:
        print(f"detector: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
