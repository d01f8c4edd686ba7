"""What stock Keras does not load is not portable; this is no damage."""

import json
import warnings

import keras
import numpy as np
import pytest
from pydantic import TypeAdapter
from test_store_builders import add, fake_checkpoint, prepared
from training_builders import damage_steps, events, names, plan, policy

import keras_savekit as sk
from keras_savekit.cli import main as cli
from keras_savekit.resume.select import candidates
from keras_savekit.store.manifest import Finding, Verification, supersedes
from keras_savekit.store.run import RunDirectory

layers = keras.layers
LOAD = Finding("load", "model.h5", "dense/kernel differs after loading")
PREDICT = Finding("predict", "model.h5", "gives other outputs")
NAME = "000000005-latest"


def not_portable(finding, depth="structure", **fields):
    return Verification(depth, 1.0, not_portable=(finding,), **fields)


def test_what_is_not_portable_is_good_and_names_its_verified_depth():
    found = not_portable(LOAD)
    assert (found.good, found.portable, found.examined) == (True, False, "load")
    assert not_portable(PREDICT, "load").examined == "predict"
    assert Verification("predict", 1.0).portable
    assert Verification("structure", 1.0).portable is None
    assert Verification("load", 1.0, done=False).portable is None
    assert Verification("load", 1.0, (LOAD,)).portable is None


def test_the_deeper_and_newer_verification_of_portability_is_kept():
    shallow, deep = Verification("structure", 1.0), Verification("load", 1.0)
    assert supersedes(not_portable(LOAD), shallow)
    assert not supersedes(shallow, not_portable(LOAD))
    assert supersedes(deep, not_portable(LOAD))
    assert supersedes(not_portable(LOAD), deep)
    assert not supersedes(deep, not_portable(PREDICT, "load"))


@pytest.fixture
def run(tmp_path):
    run = prepared(tmp_path / "run")
    add(run, 5, build=fake_checkpoint)
    return run


@pytest.mark.parametrize("finding", [LOAD, PREDICT])
def test_what_an_earlier_version_recorded_as_damage_is_verified_again(run, finding):
    """Version 0.1 recorded what `load` and `predict` found as findings."""
    run.record(NAME, Verification(finding.kind, 1.0, (finding,)))
    found = run.open(NAME)
    assert found.status == "unverified"
    assert found.verification.note == f"an earlier version recorded as damage: {finding}"
    (candidate,) = candidates(run, 2.0)
    assert candidate.usable
    assert (candidate.verification.depth, candidate.verification.done) == ("structure", True)
    assert supersedes(candidate.verification, found.verification)


@pytest.mark.parametrize("kind", ["load", "predict", "digest", "tensor"])
def test_no_recorded_finding_makes_a_resume_quarantine_what_is_whole(run, kind):
    run.record(NAME, Verification("load", 1.0, (Finding(kind, "model.h5", "forged"),)))
    (candidate,) = candidates(run, 2.0)
    assert candidate.usable


def test_a_verification_that_version_0_1_wrote_is_read(run):
    text = {"depth": "load", "when": 1.0, "findings": [], "note": "", "done": True}
    adapter = TypeAdapter(Verification)
    assert adapter.validate_python(text) == Verification("load", 1.0)


def test_a_quarantined_checkpoint_still_shows_what_an_earlier_version_found(run):
    run.quarantine(NAME, Verification("load", 1.0, (LOAD,)))
    ((_, verification),) = run.quarantined()
    assert verification.findings == (LOAD,)


def test_list_shows_what_is_not_portable_apart_from_damage(run, capsys):
    run.record(NAME, not_portable(LOAD, note="use it so"))
    assert cli.run(["list", str(run.path)]) == 0
    out = capsys.readouterr().out
    assert "verified: structure, not portable" in out
    assert f"not portable:\n  {NAME}\n    whole, and not portable: {LOAD}; use it so\n" in out
    assert "failed:" not in out
    cli.run(["list", str(run.path), "--json"])
    (listed,) = json.loads(capsys.readouterr().out)["checkpoints"]
    assert (listed["status"], listed["portable"], listed["findings"]) == ("verified", False, [])
    assert listed["not_portable"][0]["kind"] == "load"


# Trainings: three inputs, one output, plans in each format, two saves each.


def lora_dense():
    made = keras.Sequential(
        [keras.Input((3,)), layers.Dense(8, activation="relu"), layers.Dense(1)]
    )
    made.layers[0].enable_lora(2)
    return made


def lora_attention():
    inputs = keras.Input((3,))
    hidden = layers.Reshape((3, 1))(inputs)
    attention = layers.MultiHeadAttention(2, 2)
    hidden = layers.Flatten()(attention(hidden, hidden))
    attention.query_dense.enable_lora(2)
    attention.value_dense.enable_lora(2)
    return keras.Model(inputs, layers.Dense(1)(hidden))


def shared_with_a_submodel():
    inputs, outer = keras.Input((3,)), keras.Input((3,))
    dense = layers.Dense(3, name="same")
    inner = keras.Model(inputs, dense(inputs), name="inner")
    return keras.Model(outer, layers.Dense(1)(dense(inner(outer))))


def ellipsis():
    inputs = keras.Input((3,))
    return keras.Model(inputs, layers.Dense(1)(inputs[..., :2]))


@keras.saving.register_keras_serializable("portable")
class BuildsInCall(layers.Layer):
    """Has no `build`: its sublayer is built by the first call."""

    def __init__(self, **given):
        super().__init__(**given)
        self.inner = layers.Dense(4)

    def call(self, x):
        return self.inner(x)


def builds_in_call():
    return keras.Sequential([keras.Input((3,)), BuildsInCall(), layers.Dense(1)])


def normalized():
    layer = layers.Normalization()
    layer.adapt(np.random.default_rng(0).normal(5, 3, (64, 3)))
    return keras.Sequential([keras.Input((3,)), layer, layers.Dense(1)])


X = np.random.default_rng(3).normal(size=(22, 3)).astype("float32")
Y = X.sum(axis=1, keepdims=True)
FORMS = {"h5": {"format": "h5"}, "keras": {"format": "keras"}, "weights": {"save": "weights"}}


def trained(build, directory, epochs, depth, **changes):
    """A new model that was trained or resumed, and the warnings of the kit."""
    keras.utils.set_random_seed(7)
    made = build()
    made.compile("adam", "mse")
    plans = [
        plan("every epoch", name, keep="last 1", verify=depth, when_busy="wait", **form)
        for name, form in FORMS.items()
    ]
    kit = sk.SaveKit(policy(*plans, on_failure="resave", **changes), directory=directory)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made.fit(X, Y, batch_size=8, epochs=epochs, verbose=0, callbacks=[kit])
    return made, [str(each.message) for each in caught if each.category is sk.SavekitWarning]


def assert_same_weights(one, other):
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("depth", ["load", "predict"])
@pytest.mark.parametrize(
    ("build", "forms"),
    [
        (lora_dense, {"keras", "weights"}),
        (lora_attention, {"h5", "keras", "weights"}),
        (shared_with_a_submodel, {"h5", "keras", "weights"}),
        (ellipsis, {"h5"}),
        (builds_in_call, {"h5", "keras", "weights"}),
        (normalized, set()),
    ],
    ids=lambda given: getattr(given, "__name__", ""),
)
def test_what_stock_keras_does_not_load_is_kept_warned_of_once_and_resumed(
    build, forms, depth, tmp_path
):
    made, warned = trained(build, tmp_path, 2, depth)
    run = RunDirectory(tmp_path)
    assert not events(tmp_path, "quarantined")
    assert len(events(tmp_path, "saved")) == 6  # nothing was saved again
    assert run.quarantined() == []
    assert names(tmp_path) == [f"000000006-{form}" for form in sorted(FORMS)]
    assert {each.status for each in run.checkpoints()} == {"verified"}
    assert run.linked("latest") in names(tmp_path)
    found = {each.manifest.plan for each in run.checkpoints() if each.verification.not_portable}
    assert found == forms
    warnings_about_it = [text for text in warned if "not portable" in text]
    assert sorted(text.partition(" is whole")[0] for text in warnings_about_it) == [
        f"000000003-{form}" for form in sorted(forms)
    ]
    logged = [each["name"] for each in events(tmp_path, "verified") if each["not_portable"]]
    assert sorted(logged) == sorted(
        f"{step}-{form}" for step in ("000000003", "000000006") for form in forms
    )
    # Each is usable: by name, by our reader into the model that the code builds, by a resume.
    for checkpoint in run.checkpoints():
        other = build()
        sk.load_weights(other, checkpoint.path)
        np.testing.assert_allclose(other(X), made(X), rtol=1e-5)
        other = build()
        other.compile("adam", "mse")
        assert sk.restore(other, tmp_path, checkpoint.name).name == checkpoint.name
        np.testing.assert_allclose(other(X), made(X), rtol=1e-5)
        reads = "load_model loads it" in (checkpoint.verification.note if found else "")
        if reads:
            np.testing.assert_array_equal(sk.load_model(checkpoint.path)(X), made(X))
    again, _ = trained(build, tmp_path, 2, "structure")
    assert_same_weights(again, made)
    trained(build, tmp_path, 3, "structure")
    assert names(tmp_path) == [f"000000009-{form}" for form in sorted(FORMS)]


@pytest.mark.slow
def test_damage_is_found_and_quarantined_beside_what_is_not_portable(monkeypatch, tmp_path):
    damage_steps(monkeypatch, 3)
    _, warned = trained(lora_attention, tmp_path, 2, "load")
    (quarantined,) = events(tmp_path, "quarantined")
    assert "not portable" not in "".join(quarantined["findings"])
    ((name, verification),) = RunDirectory(tmp_path).quarantined()
    assert name == quarantined["name"]
    assert verification.depth == "bytes"
    assert any("failed its verification" in text for text in warned)
    assert [each.status for each in RunDirectory(tmp_path).checkpoints()] == ["verified"] * 3


@pytest.mark.slow
def test_a_verification_from_the_command_line_says_so_with_exit_status_0(tmp_path, capsys):
    trained(ellipsis, tmp_path, 1, "structure")
    assert cli.run(["verify", str(tmp_path), "--depth", "load"]) == 0
    out = capsys.readouterr().out
    assert "good  000000003-h5  structure, not portable\n      stock Keras cannot load it: " in out
    assert "good  000000003-keras  load\n" in out
    assert out.endswith("3 checked at depth load, 0 bad, 1 not portable\n")
    assert cli.run(["verify", str(tmp_path), "--depth", "load", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["good"]
    assert [each["portable"] for each in found["checkpoints"]] == [False, True, True]
    assert found["checkpoints"][0]["not_portable"][0]["kind"] == "load"
    # A shallower look forgets nothing of it, and damage is damage.
    assert cli.run(["verify", str(tmp_path)]) == 0
    assert RunDirectory(tmp_path).open("000000003-h5").verification.portable is False
    file = tmp_path / "checkpoints" / "000000003-h5" / "model.h5"
    file.write_bytes(file.read_bytes()[:-1])
    assert cli.run(["verify", str(tmp_path), "--depth", "load"]) == 1


@pytest.mark.slow
def test_a_single_file_that_stock_keras_does_not_load_is_written_with_a_warning(tmp_path):
    made = ellipsis()
    said = r"m\.h5 is whole, and not portable: stock Keras cannot load it.*load_model loads it"
    with pytest.warns(sk.SavekitWarning, match=said):
        sk.save_model(made, tmp_path / "m.h5")
    assert_same_weights(sk.load_model(tmp_path / "m.h5"), made)
