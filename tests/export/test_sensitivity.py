"""Which layers stay in float, with harms that are known."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgespa.export.sensitivity import Choice, choose, rank


def test_the_most_harmful_comes_first_and_equals_keep_their_order() -> None:
    cosines = {"a": 0.99, "b": 0.5, "c": 0.99, "d": 1.0 + 1e-9}
    harm = rank(tuple(cosines), cosines.__getitem__)
    assert list(harm) == ["b", "a", "c", "d"]
    assert harm["b"] == 0.5
    assert harm["d"] == 0.0


@given(
    st.lists(st.floats(0, 0.1), min_size=2, max_size=60),
    st.floats(0.9, 0.9999),
    st.floats(0.3, 3),
)
def test_it_is_the_fewest(harms: list[float], wanted: float, scale: float) -> None:
    """Against trying every count, for harms that add up exactly or to some multiple of it."""
    ordered = {f"l{index}": value for index, value in enumerate(sorted(harms, reverse=True))}

    def cosine(layers: tuple[str, ...]) -> float:
        return 1 - scale * sum(value for name, value in ordered.items() if name not in layers)

    names = tuple(ordered)
    counts = [count for count in range(1, len(names)) if cosine(names[:count]) >= wanted]
    choice = choose(ordered, cosine, wanted, least=1)
    if not counts:
        assert choice is None
    else:
        assert choice is not None
        assert choice.float_layers == names[: counts[0]]
        assert choice.cosine == cosine(choice.float_layers)
        assert choice.tried <= 2 + 2 * len(names).bit_length()


def test_a_good_guess_takes_two_files() -> None:
    harm = {f"l{index}": 0.1 / 2**index for index in range(40)}
    tried: list[int] = []

    def cosine(layers: tuple[str, ...]) -> float:
        tried.append(len(layers))
        return 1 - sum(list(harm.values())[len(layers) :])

    choice = choose(harm, cosine, 0.99, least=1)
    assert isinstance(choice, Choice)
    assert len(choice.float_layers) == 5
    assert len(tried) <= 4


def test_all_but_one_in_float_is_the_end() -> None:
    assert choose({"a": 0.5, "b": 0.4}, lambda _: 0.5, 0.9, least=1) is None
    assert choose({"a": 0.5}, lambda _: 0.5, 0.9, least=0) is None
    assert choose({"a": 0.5, "b": 0.4}, lambda layers: float(layers == ("a",)), 0.9, least=1) == Choice(("a",), 1.0, 1)
