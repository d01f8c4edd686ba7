"""The JSON Schema of a policy, for editors and other programs.

Made from the values themselves, then loosened to what YAML may say: numbers in
quotes, units, environment variables, short strings. It says what has which
shape; what parts mean together (two plans of one name, a trigger that can never
happen) only the parser judges. So what the schema refuses, the parser refuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_savekit.policy.fields import Value
from keras_savekit.policy.plan import Limits, Policy, SavePlan
from keras_savekit.policy.resume import Resume
from keras_savekit.policy.rules.kinds import Best, EveryNth, Last, NewerThan, WithinSize
from keras_savekit.policy.triggers.base import Trigger
from keras_savekit.policy.triggers.registry import KINDS
from keras_savekit.policy.triggers.schedule import UNITS, Every

Schema = dict[str, Any]

# What newer versions of pydantic leave in their own words.
_KEYWORDS = {"ge": "minimum", "gt": "exclusiveMinimum"}
DIALECT = "https://json-schema.org/draft/2020-12/schema"
_VARIABLE: Schema = {"type": "string", "pattern": r"\$\{"}
_NUMBER_TEXT: Schema = {"type": "string", "pattern": r"[0-9]|\$\{"}
_TRIGGER: Schema = {"$ref": "#/$defs/trigger"}


def policy_schema() -> Schema:
    """The schema of a whole policy file, as JSON values."""
    policy = _object(Policy)
    policy["properties"]["plans"] = {
        "type": "array",
        "items": {"$ref": "#/$defs/plan"},
        "minItems": 1,
        "description": Policy.model_fields["plans"].description,
    }
    policy["properties"]["limits"] = _object(Limits)
    mapping = _object(Resume)
    policy["properties"]["resume"] = {"anyOf": [mapping["properties"]["mode"], mapping]}
    policy["properties"]["include"] = {
        **_one_or_list({"type": "string", "minLength": 1}),
        "description": "other policies beneath this one; plans are merged by name",
    }
    # What is included may bring the plans, and the rest of each.
    policy["anyOf"] = [{"required": ["plans"]}, {"required": ["include"]}]
    del policy["required"]
    return {
        "$schema": DIALECT,
        "title": "A keras_savekit policy",
        **policy,
        "$defs": {"plan": _plan(), "trigger": _trigger(), "rule": _rule()},
    }


def _plan() -> Schema:
    plan = _object(SavePlan)
    properties = plan["properties"]
    properties["name"] = {"type": "string", "pattern": r"^[A-Za-z0-9_-]{1,64}$|\$\{"}
    about = {name: field.description for name, field in SavePlan.model_fields.items()}
    properties["when"] = {**_one_or_list(_TRIGGER), "description": about["when"]}
    properties["keep"] = {**_one_or_list({"$ref": "#/$defs/rule"})}
    plan["required"] = ["name"]
    return plan


def _trigger() -> Schema:
    words = "|".join(key for key, kind in KINDS.items() if kind.spelling)
    alone = {"type": "string", "pattern": rf"^\s*({words})(\s|$)|\$\{{"}
    with_body = {key: _body(kind) for key, kind in KINDS.items() if kind.model_fields}
    return {"anyOf": [alone, _only_one_of(with_body)]}


def _body(kind: type[Trigger]) -> Schema:
    """What may stand under a trigger's key."""
    if kind.key in ("any", "all"):
        return _one_or_list(_TRIGGER)
    if kind.key == "not":
        return _TRIGGER
    fields = _object(kind)
    described = {"description": (kind.__doc__ or "").partition("\n")[0]}
    if kind is Every:
        fields["oneOf"] = [{"required": [unit]} for unit in UNITS]
        return {**described, "anyOf": [fields, _NUMBER_TEXT]}
    if not kind.body:
        return {**described, **fields}
    bare = fields["properties"][kind.body]
    return {**described, "anyOf": [bare, fields] if len(kind.model_fields) > 1 else [bare]}


def _rule() -> Schema:
    last, best = _object(Last)["properties"], _object(Best)["properties"]
    every = _object(EveryNth)
    every["oneOf"] = [{"required": [unit]} for unit in EveryNth.model_fields]
    shape: Schema = {
        "type": "object",
        "properties": {
            "last": last["count"],
            "best": best["count"],
            **{key: best[key] for key in ("metric", "mode", "keep")},
            "every": every,
            "newer_than": _object(NewerThan)["properties"]["age"],
            "size": _object(WithinSize)["properties"]["size"],
        },
        "additionalProperties": False,
        "minProperties": 1,
        "dependentRequired": {
            "best": ["metric", "mode"],
            **{key: ["best"] for key in ("metric", "mode", "keep")},
        },
    }
    words = {"type": "string", "pattern": r"^\s*(last|best|every|newer_than|size|all)(\s|$)|\$\{"}
    return {"anyOf": [words, shape]}


def _object(kind: type[Value]) -> Schema:
    """The schema of a value's own fields, loosened."""
    # Fields that hold triggers and rules have no schema of their own; they are put in by hand.
    made = kind.model_json_schema()
    properties = {name: _loosened(each) for name, each in made["properties"].items()}
    found: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    if "required" in made:
        found["required"] = made["required"]
    return found


def _loosened(schema: Mapping[str, Any]) -> Schema:
    """What YAML may say where the value itself takes this."""
    about = {key: schema[key] for key in ("description", "default") if key in schema}
    core = {_KEYWORDS.get(key, key): each for key, each in schema.items() if key not in about}
    core.pop("title", None)
    if "const" in core:
        core.pop("enum", None)  # older versions of pydantic say it twice
    if "anyOf" in core:
        core["anyOf"] = [_loosened(each) for each in core["anyOf"]]
        return {**about, **core}
    if core.get("type") in ("integer", "number"):
        return {**about, "anyOf": [core, _NUMBER_TEXT]}
    if "enum" in core:
        return {**about, "anyOf": [core, _VARIABLE]}
    if core.get("type") == "array":
        return {**about, **_one_or_list(_loosened(core["items"]))}
    return {**about, **core}


def _one_or_list(item: Schema) -> Schema:
    return {"anyOf": [item, {"type": "array", "items": item, "minItems": 1}]}


def _only_one_of(properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
    }
