"""Where a policy says the key is, and what it says in words."""

import json

import pytest

from keras_savekit.errors import PolicyError, SavekitError
from keras_savekit.policy.plan import Limits, Policy
from keras_savekit.policy.signing import Signing, secret_of
from keras_savekit.policy.yaml_file import parse_policy

PLANS = "plans: [{name: p, when: every epoch}]\n"


def test_a_policy_names_the_variable_that_holds_the_key():
    policy = parse_policy(PLANS + "signing: {key: env RUN_KEY}\n")
    assert policy.signing == Signing(key="env RUN_KEY")
    assert json.loads(policy.signing.model_dump_json()) == {"key": "env RUN_KEY"}
    assert "; signs checkpoints with env RUN_KEY" in policy.describe()
    assert parse_policy(policy.to_yaml()) == policy


@pytest.mark.parametrize("value", ["hunter2", 7, "env 7", "env A B"])
def test_a_policy_refuses_to_hold_a_key_and_does_not_repeat_it(value):
    with pytest.raises(PolicyError, match="must be env NAME") as caught:
        parse_policy(f"{PLANS}signing: {{key: {value}}}\n")
    assert "hunter2" not in str(caught.value)


def test_the_key_comes_from_the_environment():
    assert Signing(key="env A").secret({"A": "x"}) == b"x"
    assert secret_of({"signing": {"key": "env A"}}, {"A": "x"}) == b"x"
    assert secret_of({"signing": None}, {}) is None
    for environ in ({}, {"A": ""}):
        with pytest.raises(SavekitError, match="the key in A, which is not set"):
            Signing(key="env A").secret(environ)


def test_limits_of_verification_are_said():
    limits = Limits(verify_memory="8GB", final_wait="5m")
    assert "loading one to verify it may take 8GB" in limits.describe()
    assert "the end waits 5m for verifications" in limits.describe()
    assert Policy(plans=[{"name": "p", "when": "every epoch"}]).signing is None
