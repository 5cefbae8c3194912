"""Which layers stay in float, with harms that are known."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgespa.quantisation.sensitivity import Choice, choose, rank


def test_the_most_harmful_comes_first_and_equals_keep_their_order() -> None:
    errors = {"a": 0.1, "b": 0.5, "c": 0.1, "d": 0.0, "e": float("inf")}
    harm = rank(tuple(errors), errors.__getitem__)
    assert list(harm) == ["e", "b", "a", "c", "d"]
    assert harm["b"] == 0.25
    assert harm["d"] == 0.0
    # Infinite outputs of one layer alone do not spoil the sum of the others.
    choice = choose(harm, lambda kept: sum(harm[name] for name in harm if name not in kept) ** 0.5, 0.2, least=1)
    assert choice is not None
    assert choice.float_layers == ("e", "b")
    assert choice.tried <= 2


@given(
    st.lists(st.floats(0, 0.1), min_size=2, max_size=60),
    st.floats(0.01, 0.3),
    st.floats(0.3, 3),
)
def test_it_is_the_fewest(harms: list[float], most: float, scale: float) -> None:
    """Against trying every count, for harms that add up exactly or to some multiple of it."""
    ordered = {f"l{index}": value for index, value in enumerate(sorted(harms, reverse=True))}

    def error(layers: tuple[str, ...]) -> float:
        return (scale * sum(value for name, value in ordered.items() if name not in layers)) ** 0.5

    names = tuple(ordered)
    counts = [count for count in range(1, len(names)) if error(names[:count]) <= most]
    choice = choose(ordered, error, most, least=1)
    if not counts:
        assert choice is None
    else:
        assert choice is not None
        assert choice.float_layers == names[: counts[0]]
        assert choice.error == error(choice.float_layers)
        assert choice.tried <= 2 + 2 * len(names).bit_length()


def test_a_good_guess_takes_two_files() -> None:
    harm = {f"l{index}": 0.1 / 2**index for index in range(40)}
    tried: list[int] = []

    def error(layers: tuple[str, ...]) -> float:
        tried.append(len(layers))
        return float(sum(list(harm.values())[len(layers) :]) ** 0.5)

    choice = choose(harm, error, 0.1, least=1)
    assert isinstance(choice, Choice)
    assert len(choice.float_layers) == 5
    assert len(tried) <= 4


def test_all_but_one_in_float_is_the_end() -> None:
    assert choose({"a": 0.5, "b": 0.4}, lambda _: 0.5, 0.3, least=1) is None
    assert choose({"a": 0.5}, lambda _: 0.5, 0.3, least=0) is None
    assert choose({"a": 0.5, "b": 0.4}, lambda layers: float(layers != ("a",)), 0.3, least=1) == Choice(("a",), 0.0, 1)
