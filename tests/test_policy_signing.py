"""Where a policy says the key is, what it says in words, and that no key is ever shown."""

import copy
import hashlib
import hmac
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_savekit.base.key import Key
from keras_savekit.errors import PolicyError, SavekitError
from keras_savekit.policy.plan import Limits, Policy
from keras_savekit.policy.signing import Signing, secret_in, secret_of
from keras_savekit.policy.yaml.load import load_policy, parse_policy

PLANS = "plans: [{name: p, when: every epoch}]\n"


def same(one, other):
    return one.signature(b"text") == other.signature(b"text")


def test_a_policy_names_the_variable_that_holds_the_key():
    policy = parse_policy(PLANS + "signing: {key: env RUN_KEY}\n")
    assert policy.signing == Signing(key="env RUN_KEY")
    assert json.loads(policy.signing.model_dump_json()) == {"key": "env RUN_KEY"}
    assert "; signs checkpoints with env RUN_KEY" in policy.describe()
    assert parse_policy(policy.to_yaml()) == policy


# Where people put a key by mistake. What is in a file is also said in Python.
MISTAKES = {
    "as the key": {"key": "my-secret-key"},
    "as a number": {"key": 6210419735},
    "in a list": {"key": ["my-secret-key"]},
    "in a mapping": {"key": {"env": "my-secret-key"}},
    "behind env": {"key": "env my-secret-key"},
    "without env": "my-secret-key",
    "in a list of one": ["my-secret-key"],
    "as a name": {"my-secret-key": None},
    "under another name": {"secret": "my-secret-key"},
    "beside the key": {"key": "env RUN_KEY", "value": "my-secret-key"},
}


@pytest.mark.parametrize("said", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_key_that_was_put_into_the_policy_by_mistake_is_not_repeated(said, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"{PLANS}signing: {json.dumps(said)}\n")
    with pytest.raises(PolicyError, match=r"mine\.yaml") as from_file:
        load_policy(path)
    with pytest.raises(PolicyError) as from_python:
        Policy(plans=[{"name": "p", "when": "every epoch"}], signing=said)
    assert "line 2" in str(from_file.value)
    for caught in (from_file, from_python):
        told = f"{caught.value}{caught.value!r}{caught.value.__context__!r}"
        assert "signing" in told
        assert not any(secret in told for secret in ("my-secret-key", "6210419735"))


def test_the_key_comes_from_the_environment():
    assert same(Signing(key="env  A").secret({"A": "x"}), Key(b"x"))
    assert same(secret_of({"signing": {"key": "env A"}}, {"A": "x"}), Key(b"x"))
    assert same(secret_in("A", {"A": "\udcff"}, "--key-env"), Key(b"\xff"))
    assert secret_of({"signing": None}, {}) is None
    for environ in ({}, {"A": ""}):
        with pytest.raises(SavekitError, match=r"the key in A, which is not set \[signing\.key\]"):
            Signing(key="env A").secret(environ)
        with pytest.raises(SavekitError, match=r"the key in A, which is not set \[--key-env\]"):
            secret_in("A", environ, "--key-env")


@pytest.mark.parametrize("name", ["", "my-secret-key", "A B", "env A", "7"])
def test_what_is_no_name_of_a_variable_may_be_the_key_and_is_not_repeated(name):
    with pytest.raises(SavekitError, match="the name of the variable that holds the key") as caught:
        secret_in(name, {name: "x"}, "--key-env")
    assert "my-secret-key" not in str(caught.value)


@given(st.binary(min_size=1), st.binary())
def test_a_signature_is_hmac_sha256(secret, text):
    key = Key(secret)
    expected = hmac.digest(secret, text, hashlib.sha256).hex().encode()
    assert key.signature(text) == expected
    assert key.verify(expected, text)
    assert not key.verify(expected[:-1], text)
    assert not key.verify(expected, text + b".")


def test_an_empty_key_is_none():
    with pytest.raises(SavekitError, match="the key is empty"):
        Key(b"")


def test_a_key_is_shown_in_no_way():
    key = Key(b"my-secret-key", "RUN_KEY")
    shown = [repr(key), str(key), f"{key}", f"{key!r:>30}", "%s" % key, repr([key]), repr(vars)]  # noqa: UP031
    shown += [repr(getattr(key, name)) for name in Key.__slots__]
    assert not any("my-secret-key" in each for each in shown)
    assert repr(key) == "Key(hidden)"


def test_a_key_is_neither_pickled_nor_copied():
    for take in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled or copied"):
            take(Key(b"my-secret-key"))


def test_whoever_needs_no_key_gets_an_environment_without_it():
    environ = {"A": "x", "COPY": "x", "OTHER": "xy", "EMPTY": "", "ODD": "\udcff"}
    assert set(Key(b"x", "A").remove_from(environ)) == {"OTHER", "EMPTY", "ODD"}
    changed = environ | {"A": "another by now"}
    assert set(Key(b"x", "A").remove_from(changed)) == {"OTHER", "EMPTY", "ODD"}
    assert Key(b"y").remove_from(environ) == environ


def test_limits_of_verification_are_said():
    limits = Limits(verify_memory="8GB", final_wait="5m")
    assert "loading one to verify it may take 8GB" in limits.describe()
    assert "the end waits 5m for verifications" in limits.describe()
    assert Policy(plans=[{"name": "p", "when": "every epoch"}]).signing is None
