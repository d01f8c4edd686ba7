"""Any bytes give a value or an error of ours: manifest, verification, event log and policy.

`make fuzz` lets atheris look for bytes that do not, guided by what they reach:

    python tests/fuzz.py policy -max_total_time=60

libFuzzer's options follow the parser's name. `tests/test_fuzz.py` draws a small dose
by hypothesis, without atheris.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import xxhash

PARSERS = ("manifest", "verification", "log", "run", "policy")


def parser(name: str, scratch: Path) -> Callable[[bytes], object]:
    """What is given the bytes. Whatever it raises that is no SavekitError is a fault."""
    from keras_savekit.errors import SavekitError
    from keras_savekit.policy.yaml.load import load_policy
    from keras_savekit.store import run_info
    from keras_savekit.store.event_log import EventLog
    from keras_savekit.store.manifest import VERIFICATION
    from keras_savekit.store.manifest_json import manifest_from_json, read_verification

    files = {
        "verification": (VERIFICATION, lambda path: read_verification(path.parent)),
        "log": ("events.jsonl", lambda path: EventLog(path).read()),
        "run": ("savekit.json", run_info.read),
        "policy": ("policy.yaml", lambda path: load_policy(path, {}).describe()),
    }

    def read(data: bytes) -> object:
        if name == "manifest":
            return manifest_from_json(data, "here")
        file, reading = files[name]
        path = scratch / file
        path.write_bytes(data)
        return reading(path)

    def tried(data: bytes) -> object:
        try:
            return read(data)
        except SavekitError as error:
            text = str(error)
            assert all(each.isprintable() or each == "\n" for each in text), text
            return None

    return tried


def sealed(body: bytes) -> bytes:
    """JSON without its closing brace, under a seal that fits it."""
    return body + b',\n  "seal": "%s"\n}\n' % xxhash.xxh3_128_hexdigest(body).encode()


def seeds(name: str) -> list[bytes]:
    """Something good to begin with."""
    from keras_savekit.base.moment import Moment
    from keras_savekit.store.manifest import FileEntry, Finding, Manifest, TensorEntry, Verification
    from keras_savekit.store.manifest_json import to_json

    if name == "manifest":
        tensor = TensorEntry("weight", 0, "a/b", (2, 3), "float32", "0" * 32, ("model.h5:/a",))
        moment = Moment(1, 2, 3, 4.0, {"loss": float("nan")})
        files = (FileEntry("model.h5", 1, "0" * 32),)
        whole = Manifest("r", "p", "model", ("x",), moment, 1.0, "model.h5", files, (tensor,))
        return [to_json(whole)]
    if name == "verification":
        return [to_json(Verification("bytes", 1.0, (Finding("digest", "a", "b"),), "note"))]
    if name == "log":
        return [b'{"time": 1, "kind": "saved"}\n{"time": 2, "kind": "removed"}\n{"ti']
    if name == "run":
        return [b'{"run": "r", "policy": {"plans": []}, "format": 1}']
    configs = Path(__file__).parent.parent / "configs"
    return [each.read_bytes() for each in sorted(configs.glob("*.yaml"))]


def main() -> None:
    import atheris

    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=["keras_savekit", "yaml"]):
        import keras_savekit.policy.yaml.load
        import keras_savekit.store.event_log
        import keras_savekit.store.manifest
        import keras_savekit.store.run_info  # noqa: F401
    scratch = Path(tempfile.mkdtemp(prefix="savekit-fuzz-"))
    corpus = scratch / "corpus"
    corpus.mkdir()
    for number, each in enumerate(seeds(name)):
        (corpus / str(number)).write_bytes(each)
    tried = parser(name, scratch)

    def one(data: bytes) -> None:
        tried(data)
        if name in ("manifest", "verification"):
            tried(sealed(data))  # behind the seal there is more to reach

    atheris.Setup([*sys.argv, str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in PARSERS:
        sys.exit(f"give one of {', '.join(PARSERS)}")
    main()
