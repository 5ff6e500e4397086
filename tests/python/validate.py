"""Validates the Kubernetes objects on standard input, a YAML stream, strictly against the schemas of the version named."""

import sys

import kubernetes_validate
import yaml


def objects(document):
    if document.get("kind") == "List":
        for item in document["items"]:
            yield from objects(item)
    else:
        yield document


def main():
    failures, validated = 0, 0
    for document in yaml.safe_load_all(sys.stdin):
        for thing in objects(document or {"kind": "List", "items": []}):
            try:
                kubernetes_validate.validate(thing, sys.argv[1], strict=True)
                validated += 1
            except kubernetes_validate.ValidationError as error:
                failures += 1
                path = ".".join(str(part) for part in error.path)
                print(f"{thing['kind']}/{thing['metadata']['name']}: {path}: {error.message}", file=sys.stderr)
            except kubernetes_validate.SchemaNotFoundError:
                print(f"{thing['kind']}: not one of Kubernetes' own", file=sys.stderr)
    print(validated)
    sys.exit(1 if failures else 0)


main()
