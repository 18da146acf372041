"""JSON schemas of metadata definitions, as clients read them to check what they send; types come from the model."""

from typing import Any, get_args

from ikon.model.metadef import Type, Visibility


def _text(description: str = "", most: int | None = None, **more: Any) -> dict[str, Any]:
    said = {"type": "string"} | ({"description": description} if description else {}) | ({"maxLength": most} if most else {})
    return said | more


def _time(description: str) -> dict[str, Any]:
    return _text(description, readOnly=True, format="date-time")


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/definitions/{name}"}


def _texts(**more: Any) -> dict[str, Any]:
    return {"type": "array", "items": {"type": "string"}, **more}


LINK = {"readOnly": True, "type": "string"}
TYPE = {"type": "string", "enum": [*get_args(Type), None]}
COUNTS = {
    "positiveInteger": {"type": "integer", "minimum": 0},
    "positiveIntegerDefault0": {"allOf": [_ref("positiveInteger"), {"default": 0}]},
}
PROPERTY: dict[str, Any] = {
    "name": _text(most=80),
    "title": {"type": "string"},
    "description": {"type": "string"},
    "operators": _texts(),
    "type": TYPE,
    "required": _ref("stringArray"),
    "minimum": {"type": "number"},
    "maximum": {"type": "number"},
    "maxLength": _ref("positiveInteger"),
    "minLength": _ref("positiveIntegerDefault0"),
    "pattern": {"type": "string", "format": "regex"},
    "enum": {"type": "array"},
    "readonly": {"type": "boolean"},
    "default": {},
    "items": {"type": "object", "properties": {"type": TYPE, "enum": {"type": "array"}}},
    "maxItems": _ref("positiveInteger"),
    "minItems": _ref("positiveIntegerDefault0"),
    "uniqueItems": {"type": "boolean", "default": False},
    "additionalItems": {"type": "boolean"},
}
#: For a property by itself, and for what holds properties by their keys.
ALONE = COUNTS | {"stringArray": _texts(minItems=1, uniqueItems=True)}
TOGETHER = COUNTS | {
    "stringArray": _texts(uniqueItems=True),
    "property": {"type": "object", "additionalProperties": {"type": "object", "required": ["title", "type"], "properties": PROPERTY}},
}
OBJECT = {
    "name": _text(most=80),
    "description": {"type": "string"},
    "required": _ref("stringArray"),
    "properties": _ref("property"),
    "schema": LINK,
    "self": LINK,
    "created_at": _time("When the object was made"),
    "updated_at": _time("When the object last changed"),
}
NAMESPACE = {
    "namespace": _text("Name of the namespace, which no other has", 80),
    "display_name": _text("Name that people are shown", 80),
    "description": _text("What the definitions are about, for people", 500),
    "visibility": _text("Who sees the namespace", enum=list(get_args(Visibility))),
    "protected": {"type": "boolean", "description": "Whether deleting the namespace, or anything in it, is refused"},
    "owner": _text("Project that the namespace belongs to", 255),
    "created_at": _time("When the namespace was made"),
    "updated_at": _time("When the namespace itself last changed"),
    "schema": LINK,
    "self": LINK,
    "resource_type_associations": {
        "type": "array",
        "items": {"type": "object", "properties": {name: {"type": "string"} for name in ("name", "prefix", "properties_target")}},
    },
    "properties": _ref("property"),
    "objects": {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {name: OBJECT[name] for name in ("description", "required", "properties")} | {"name": {"type": "string"}},
        },
    },
    "tags": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}}}},
}
TAG = {
    "name": _text(most=80),
    "created_at": _time("When the tag was made"),
    "updated_at": _time("When the tag last changed"),
}
ASSOCIATION = {
    "name": _text("Resource type that the namespace applies to, as orchestration templates call it where they know it", 80),
    "prefix": _text("What keys begin with on such resources, a separator at its end included", 80),
    "properties_target": _text("Which set of properties is meant, where such resources have several", 80),
    "created_at": _time("When the namespace came to apply to it"),
    "updated_at": _time("When that last changed"),
}


def _single(name: str, properties: dict[str, Any], required: list[str], definitions: dict[str, Any]) -> dict[str, Any]:
    made = {"name": name, "properties": properties, "additionalProperties": False, "required": required}
    return made | ({"definitions": definitions} if definitions else {})


def _plural(name: str, items: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    links = [{"rel": rel, "href": f"{{{href}}}"} for rel, href in (("first", "first"), ("next", "next"), ("describedby", "schema"))]
    more = {link: {"type": "string"} for link in ("first", "next", "schema")}
    return {"name": name, "properties": {name: items, **more}, "links": links} | ({"definitions": definitions} if definitions else {})


def _pair(name: str, plural: str, properties: dict[str, Any], required: list[str], definitions: dict[str, Any]) -> list[dict[str, Any]]:
    """The schema of one, and that of a list."""
    items = {"type": "array", "items": _single(name, properties, required, {})}
    return [_single(name, properties, required, definitions), _plural(plural, items, definitions)]


#: By the names in their paths.
SCHEMAS: dict[str, dict[str, Any]] = dict(
    zip(
        ("namespace", "namespaces", "object", "objects", "tag", "tags", "resource_type", "resource_types", "property", "properties"),
        [
            *_pair("namespace", "namespaces", NAMESPACE, ["namespace"], TOGETHER),
            *_pair("object", "objects", OBJECT, ["name"], TOGETHER),
            *_pair("tag", "tags", TAG, ["name"], {}),
            *_pair("resource_type_association", "resource_type_associations", ASSOCIATION, ["name"], {}),
            _single("property", PROPERTY, ["type", "title", "name"], ALONE),
            _plural(
                "properties",
                {"type": "object", "additionalProperties": _single("property", PROPERTY, ["type", "title"], {})},
                ALONE,
            ),
        ],
        strict=True,
    )
)
