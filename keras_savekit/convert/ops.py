"""Find operations of a graph with outside effects: files, other processes, Python.

A graph is code. Operations that only compute may run. Operations that read or write
files, call other machines or run Python need permission by name. Pure.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from keras_savekit.errors import ConversionError

# A Python function is stored as a number that is valid only in the process that made it.
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
# Their kernels contain the state of the generator; the graph contains only the seed.
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
# They have a state that outlives a call, and that is empty after loading.
STATE = (
    *("Variable", "VariableV2", "VarHandleOp", "AutoReloadVariable", "HashTable", "HashTableV2"),
    *("MutableHashTable*", "MutableDenseHashTable*", "*Queue", "*QueueV2", "Barrier", "Iterator"),
    *("IteratorV2", "OneShotIterator", "*ConditionalAccumulator", "*Stage"),
)
# Loops of TF 1, for which TensorFlow 2 computes no gradients.
LOOPS = ("Enter", "RefEnter")
CHECKPOINTS = ("Save*", "Restore*", "MergeV2Checkpoints", "ShardedFilename*")

_allowed: ContextVar[tuple[str, ...]] = ContextVar("allowed", default=())


@contextmanager
def allow_ops(*names: str) -> Iterator[None]:
    """Allow graphs with the operations of these names, during conversion and loading.

        with sk.allow_ops("ReadFile"):
            model = sk.to_keras("exported", checkpoint="ckpt-7")

    Graphs are code: allow only operations that a source you trust needs. Python
    functions cannot be allowed, because no file can contain them.
    """
    token = _allowed.set((*_allowed.get(), *names))
    try:
        yield
    finally:
        _allowed.reset(token)


def require_allowed(
    operations: Iterable[tuple[str, str]], where: str, *, checkpoints: bool = True
) -> None:
    """Raise ConversionError, which lists every operation that may not run.

    operations: the kind and name of each.
    checkpoints: whether operations that save and restore variables are allowed. A
        SavedModel contains them, and its functions do not call them.
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
            f"the graph runs Python functions, which no file can contain: {_list(python)}",
            where,
            "write them with TensorFlow operations instead of tf.py_function or tf.numpy_function",
        )
    if outside:
        names = ", ".join(f'"{kind}"' for kind in outside)
        raise ConversionError(
            f"the graph has operations with outside effects: {_list(outside)}",
            where,
            f"if you trust it, convert or load it within sk.allow_ops({names})",
        )


def require_stateless(operations: Iterable[tuple[str, str]]) -> None:
    """Raise ConversionError, which lists every operation whose state no file contains."""
    stateful = {kind: name for kind, name in operations if _matches(kind, STATE)}
    if stateful:
        raise ConversionError(
            f"the graph has operations whose state is empty after loading: {_list(stateful)}",
            "",
            "convert what it was made from: the SavedModel of a frozen graph, or the module; or"
            " select other outputs=",
        )


def require_gradients(operations: Iterable[tuple[str, str]]) -> None:
    """Raise ConversionError if a training would get no gradients."""
    loops = {kind: name for kind, name in operations if _matches(kind, LOOPS)}
    if loops:
        what = "the graph has a loop of TF 1, which TensorFlow 2 cannot train"
        raise ConversionError(f"{what}: {_list(loops)}", "", "convert it with trainable=False")


def _matches(kind: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(kind, pattern) for pattern in patterns)


def _list(found: dict[str, str]) -> str:
    return ", ".join(f"{kind} ({name})" for kind, name in found.items())
