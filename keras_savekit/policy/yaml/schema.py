"""The JSON Schema of a policy, for editors and other programs.

Made from the values themselves, then loosened to what YAML may contain: numbers in
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
from keras_savekit.policy.rules import base as rules
from keras_savekit.policy.triggers.base import KINDS, Trigger

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
    """Return the schema of what is under a trigger's key."""
    if kind.body == "triggers":
        return _one_or_list(_TRIGGER)
    if kind.body == "trigger":
        return _TRIGGER
    fields = _object(kind)
    described = {"description": (kind.__doc__ or "").partition("\n")[0]}
    if kind.one_of:
        return {**described, "anyOf": [fields, _NUMBER_TEXT]}
    if not kind.body:
        return {**described, **fields}
    bare = fields["properties"][kind.body]
    return {**described, "anyOf": [bare, fields] if len(kind.model_fields) > 1 else [bare]}


def _rule() -> Schema:
    kinds = rules.KINDS
    words = {"type": "string", "pattern": rf"^\s*({'|'.join(kinds)})(\s|$)|\$\{{"}
    properties: Schema = {}
    together: Schema = {}
    for key, kind in kinds.items():
        if not kind.model_fields:
            continue  # only a word
        fields = _object(kind)
        properties[key] = fields["properties"][kind.body] if kind.body else fields
        properties |= {field: fields["properties"][field] for field in kind.beside}
        required = [field for field in kind.beside if field in fields["required"]]
        together |= {key: required} if required else {}
        together |= {field: [key] for field in kind.beside}
    shape: Schema = {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "minProperties": 1,
        "dependentRequired": together,
    }
    return {"anyOf": [words, shape]}


def _object(kind: type[Value]) -> Schema:
    """Return the schema of a value's own fields, loosened."""
    # Fields that hold triggers and rules have no schema of their own; they are put in by hand.
    made = kind.model_json_schema()
    properties = {name: _loosened(schema) for name, schema in made["properties"].items()}
    found: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    if "required" in made:
        found["required"] = made["required"]
    if kind.one_of:
        found["oneOf"] = [{"required": [name]} for name in kind.one_of]
    return found


def _loosened(schema: Mapping[str, Any]) -> Schema:
    """What YAML may say where the value itself takes this."""
    about = {key: schema[key] for key in ("description", "default") if key in schema}
    core = {_KEYWORDS.get(key, key): value for key, value in schema.items() if key not in about}
    core.pop("title", None)
    if "const" in core:
        core.pop("enum", None)  # older versions of pydantic say it twice
    if "anyOf" in core:
        core["anyOf"] = [_loosened(choice) for choice in core["anyOf"]]
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
