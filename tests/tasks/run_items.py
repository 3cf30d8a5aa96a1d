"""Run programs read from standard input (a JSON list), with their doctests, in this limited process."""

from __future__ import annotations

import doctest
import json
import resource
import sys


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    failed = []
    for index, program in enumerate(json.load(sys.stdin)):
        space: dict[str, object] = {"__name__": "item"}
        try:
            exec(compile(program, f"item {index}", "exec"), space)
            if ">>>" in program:
                functions = [v for v in space.values() if getattr(v, "__doc__", None) and callable(v)]
                assert functions, "no documented function"
                examples = doctest.DocTestParser().get_doctest(
                    functions[0].__doc__ or "", space, "item", None, None
                )
                result = doctest.DocTestRunner(verbose=False).run(examples, out=lambda text: None)
                assert result.attempted, "no example"
                assert not result.failed, "an example is wrong"
            else:
                assert "assert " in program, "nothing is checked"
        except Exception as exc:
            failed.append([index, repr(exc)])
    json.dump(failed, sys.stdout)


if __name__ == "__main__":
    main()
