"""Validates files of TOML against the JSON Schema on stdin: a line for each, its name, and what is wrong or "valid"."""
import json
import sys
import tomllib

from jsonschema import Draft202012Validator

schema = json.load(sys.stdin)
Draft202012Validator.check_schema(schema)
validator = Draft202012Validator(schema)
for path in sys.argv[1:]:
    with open(path, encoding="utf-8-sig") as file:
        try:
            content = tomllib.loads(file.read())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            print(f"{path}: no TOML: {error}")
            continue
    problems = sorted(validator.iter_errors(content), key=lambda problem: list(map(str, problem.path)))
    places = ["/".join(map(str, problem.path)) + ": " + problem.message[:100] for problem in problems]
    print(f"{path}: " + ("; ".join(places).replace("\n", " ") or "valid"))
