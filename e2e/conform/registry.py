"""The tests, in the order of annex A."""

TESTS = []


def test(name, needs, section):
    """A test named after its abstract test; `needs` is the requirements class that must be declared."""

    def register(run):
        TESTS.append((name, needs, section, run))
        return run

    return register
