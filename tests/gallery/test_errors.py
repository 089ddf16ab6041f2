import inspect

from gallery import errors


def tree(kind: type, depth: int = 0) -> list[tuple[int, str]]:
    branches = [tree(child, depth + 1) for child in kind.__subclasses__()]
    return [(depth, kind.__name__), *(line for branch in branches for line in branch)]


def test_module_docstring_draws_the_whole_tree():
    drawn = []
    for line in inspect.getdoc(errors).split("\n\n")[1].splitlines():
        drawn.append(((len(line) - len(line.lstrip())) // 2, line.split()[0]))
    assert drawn[0] == (0, "GalleryError")
    drawn = [(depth, name) for depth, name in drawn]
    assert sorted(drawn) == sorted(tree(errors.GalleryError))
