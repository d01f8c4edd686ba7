"""Which operations of a graph reach beyond it: files, other processes, Python.

A graph is code. What computes is let run; what reads or writes files, calls
other machines or runs Python only if it is allowed by name. Pure.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from keras_savekit.errors import ConversionError

# Python functions are found by a number that only the process knows that made them.
PYTHON = ("PyFunc", "PyFuncStateless", "EagerPyFunc", "*NumbaFunc*")
# fnmatch patterns over the names of TensorFlow's registered operations.
OUTSIDE = (
    # files
    *("ReadFile", "WriteFile", "MatchingFiles*", "*Reader", "*ReaderV2", "Reader*", "*LMDB*"),
    *("ImmutableConst", "DecodeProto*", "EncodeProto*", "FileSystem*", "*FromFile*", "RecordInput"),
    *("*TextLineDataset*", "*TFRecord*", "*FixedLengthRecordDataset*", "*FilesDataset*"),
    *("*SqlDataset*", "SaveDataset*", "LoadDataset*", "*Snapshot*", "*CSVDataset*"),
    *("CacheDataset*", "*InitializeTableFromTextFile*", "*Summary*", "LoadAndRemapMatrix"),
    *("GenerateVocabRemapping", "FixedUnigramCandidateSampler", "Dump*", "Print*", "Debug*"),
    # other processes and devices
    *("Rpc*", "TryRpc", "RemoteCall", "RemoteFusedGraphExecute", "*DataService*", "Distributed*"),
    *("RegisterDataset*", "Infeed*", "Outfeed*", "Send", "Recv", "_Send", "_Recv", "_Host*"),
    *("Collective*", "XlaCustomCall*", "XlaHost*", "XlaSend*", "XlaRecv*", "*BigQuery*"),
    *("*TPUEmbedding*", "*ConfigureDistributed*"),
)
# Their kernels count on by themselves, from seeds that are part of the graph.
STATEFUL_RANDOM = frozenset(
    [
        *("RandomUniform", "RandomUniformInt", "RandomStandardNormal", "TruncatedNormal"),
        *("ParameterizedTruncatedNormal", "RandomGamma", "RandomPoisson", "RandomPoissonV2"),
        *("RandomShuffle", "Multinomial", "RandomCrop", "RandomDataset", "ShuffleDataset"),
        *("AllCandidateSampler", "UniformCandidateSampler", "LogUniformCandidateSampler"),
        *("FixedUnigramCandidateSampler", "LearnedUnigramCandidateSampler"),
        *("ThreadUnsafeUnigramCandidateSampler", "SampleDistortedBoundingBox"),
        *("SampleDistortedBoundingBoxV2", "FractionalAvgPool", "FractionalMaxPool"),
    ]
)
# They hold what lives longer than a call, and begin empty in whatever runs the graph.
STATE = (
    *("Variable", "VariableV2", "VarHandleOp", "AutoReloadVariable", "HashTable", "HashTableV2"),
    *("MutableHashTable*", "MutableDenseHashTable*", "*Queue", "*QueueV2", "Barrier", "Iterator"),
    *("IteratorV2", "OneShotIterator", "*ConditionalAccumulator", "*Stage"),
)
# Loops as TF 1 had them, through which TensorFlow 2 finds no gradients.
LOOPS = ("Enter", "RefEnter")
CHECKPOINTS = ("Save*", "Restore*", "MergeV2Checkpoints", "ShardedFilename*")

_allowed: ContextVar[tuple[str, ...]] = ContextVar("allowed", default=())


@contextmanager
def allow_ops(*names: str) -> Iterator[None]:
    """Let graphs hold the operations of these names while they are converted or loaded.

        with sk.allow_ops("ReadFile"):
            model = sk.to_keras("exported", checkpoint="ckpt-7")

    Graphs are code: allow only what a source that you trust needs. Python
    functions cannot be allowed, since no file can hold them.
    """
    token = _allowed.set((*_allowed.get(), *names))
    try:
        yield
    finally:
        _allowed.reset(token)


def require_allowed(
    operations: Iterable[tuple[str, str]], where: str, *, checkpoints: bool = True
) -> None:
    """Raise ConversionError that lists every operation that may not run.

    operations: kind and name of each.
    checkpoints: whether those that save and restore variables are no matter, as
        in a SavedModel, whose other functions do not call them.
    """
    python: dict[str, str] = {}
    outside: dict[str, str] = {}
    patterns = OUTSIDE if checkpoints else (*OUTSIDE, *CHECKPOINTS)
    for kind, name in operations:
        if _matches(kind, PYTHON):
            python.setdefault(kind, name)
        elif _matches(kind, patterns) and kind not in _allowed.get():
            outside.setdefault(kind, name)
    if python:
        raise ConversionError(
            f"the graph runs Python functions, which no file can hold: {_listed(python)}",
            where,
            "write them with TensorFlow operations instead of tf.py_function or tf.numpy_function",
        )
    if outside:
        names = ", ".join(f'"{kind}"' for kind in outside)
        raise ConversionError(
            f"the graph reaches outside of itself: {_listed(outside)}",
            where,
            f"if you trust it, convert or load it within sk.allow_ops({names})",
        )


def require_stateless(operations: Iterable[tuple[str, str]]) -> None:
    """Raise ConversionError that lists every operation with a state that no file would hold."""
    held = {kind: name for kind, name in operations if _matches(kind, STATE)}
    if held:
        raise ConversionError(
            f"the graph holds what begins empty whenever it is loaded: {_listed(held)}",
            "",
            "give what it was made from: the SavedModel of a frozen graph, or the module; or take"
            " other outputs=",
        )


def require_gradients(operations: Iterable[tuple[str, str]]) -> None:
    """Raise ConversionError if a training would find no gradients."""
    loops = {kind: name for kind, name in operations if _matches(kind, LOOPS)}
    if loops:
        what = "the graph has a loop of TF 1, which TensorFlow 2 cannot train"
        raise ConversionError(f"{what}: {_listed(loops)}", "", "convert it with trainable=False")


def _matches(kind: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(kind, pattern) for pattern in patterns)


def _listed(found: dict[str, str]) -> str:
    return ", ".join(f"{kind} ({name})" for kind, name in found.items())
