"""The rules of mining on rankings small enough to check by hand, then as properties."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finerank.core.seeding import stream
from finerank.retrieval.negatives import RULES, Known, Ranking, Rules, Selection, identity, keep, propose, settle

POOL = [f"passage {letter}" for letter in "abcdefghijkl"]
COSINES = [0.95, 0.90, 0.85, 0.80, 0.75, 0.70, 0.65, 0.60, 0.55, 0.50, 0.45, 0.40]


def select(
    ranking: Ranking, identities: Sequence[int], known: Known, rules: Rules, rng: random.Random, pool_size: int
) -> Selection:
    """Choose the negatives of one row, with no reranker between proposal and choice."""
    return settle(propose(ranking, identities, known, rules, rng), ranking, rules, pool_size)


def known(positives: list[str], same: list[str] | None = None, query: str = "q", lowest: float = 0.9) -> Known:
    own = frozenset(map(identity, positives))
    return Known(own, own | frozenset(map(identity, same or [])), identity(query), lowest)


def run(rules: Rules, facts: Known, pool: list[str] | None = None, depth: int = 12, seed: int = 0) -> Selection:
    """Rank the pool in its own order with falling cosines."""
    texts = pool or POOL
    depth = min(depth, len(texts))
    ranking = Ranking(list(range(depth)), COSINES[:depth])
    return select(ranking, [identity(text) for text in texts], facts, rules, stream(seed, "mine", 0), len(texts))


def test_the_range_is_cut_before_positives_are_removed() -> None:
    chosen = run(Rules(2, 6, 10, pad=False), known([POOL[0], POOL[3]]))
    assert chosen.positions == [2, 4, 5]
    assert (chosen.in_range, chosen.survivors, chosen.dropped["own_positive"]) == (4, 3, 1)
    assert chosen.similarities == [0.85, 0.75, 0.70]


def test_a_positive_in_another_spelling_is_still_a_positive() -> None:
    pool = ["PASSAGE\u3000 A", *POOL[1:]]
    assert run(Rules(0, 3, 5, pad=False), known(["passage a"]), pool).positions == [1, 2]


def test_a_positive_of_a_row_with_the_same_query_is_dropped_under_its_own_name() -> None:
    chosen = run(Rules(0, 3, 5, pad=False), known([POOL[0]], same=[POOL[1]]))
    assert chosen.positions == [2]
    assert dict(chosen.dropped) == {"own_positive": 1, "positive_of_same_query": 1}


def test_the_query_itself_is_not_a_negative() -> None:
    chosen = run(Rules(0, 3, 5, pad=False), known([], query="Passage  B"))
    assert chosen.positions == [0, 2]
    assert chosen.dropped["query_itself"] == 1


def test_similarity_range_includes_both_ends() -> None:
    chosen = run(Rules(0, 12, 12, similarity_range=(0.60, 0.80)), known([]))
    assert chosen.positions == [3, 4, 5, 6, 7]
    assert chosen.dropped["outside_similarity_range"] == 7


def test_max_positive_ratio_bounds_by_the_lowest_positive() -> None:
    chosen = run(Rules(0, 6, 6, max_positive_ratio=0.5, pad=False), known([], lowest=1.6))
    assert chosen.positions == [3, 4, 5]  # 0.5 × 1.6 = 0.8, inclusive
    assert chosen.dropped["above_positive_bound"] == 3


def test_margin_bounds_by_the_lowest_positive() -> None:
    assert run(Rules(0, 4, 4, margin=0.125, pad=False), known([], lowest=0.975)).positions == [2, 3]


def test_a_ratio_never_lifts_the_bound_over_a_negative_positive() -> None:
    assert Rules(max_positive_ratio=0.5).highest(-0.2) == pytest.approx(-0.3)
    assert Rules(max_positive_ratio=0.5).highest(0.2) == pytest.approx(0.1)
    assert Rules().highest(-0.2) == float("inf")


def test_equal_texts_are_taken_once_the_better_rank_stays() -> None:
    pool = ["a", "b", "A ", "c", "B"]
    chosen = run(Rules(0, 5, 5, pad=False), known([]), pool)
    assert chosen.positions == [0, 1, 3]
    assert chosen.dropped["duplicate"] == 2


def test_top_takes_the_hardest_random_takes_any_in_rank_order() -> None:
    assert run(Rules(1, 12, 3, sampling="top"), known([])).positions == [1, 2, 3]
    draws = {tuple(run(Rules(1, 12, 3), known([]), seed=seed).positions) for seed in range(40)}
    assert len(draws) > 20
    assert all(list(draw) == sorted(draw) and len(set(draw)) == 3 for draw in draws)
    assert set().union(*draws) == set(range(1, 12))


def test_padding_comes_from_below_the_range_best_first_and_by_the_same_rules() -> None:
    chosen = run(Rules(2, 4, 5), known([POOL[3], POOL[5]]))
    assert chosen.positions == [2, 4, 6, 7, 8]  # 0 and 1 are harder than the range; 3 and 5 are positives
    assert (chosen.padded, chosen.survivors, chosen.short, chosen.missing) == (4, 1, True, 0)


def test_padding_keeps_the_similarity_range() -> None:
    chosen = run(Rules(0, 2, 6, similarity_range=(0.8, 1.0)), known([]))
    assert chosen.positions == [0, 1, 2, 3]
    assert (chosen.missing, chosen.wants_more) == (2, False)


def test_padding_never_repeats_a_chosen_text() -> None:
    pool = ["a", "b", "B", "a ", "c"]
    assert run(Rules(0, 2, 3), known([]), pool).positions == [0, 1, 4]


def test_without_padding_a_short_row_stays_short() -> None:
    chosen = run(Rules(2, 4, 5, pad=False), known([]))
    assert chosen.positions == [2, 3]
    assert (chosen.short, chosen.missing, chosen.wants_more) == (True, 3, False)


def test_a_deeper_ranking_is_wanted_only_while_it_can_help() -> None:
    shallow = run(Rules(2, 4, 5), known([]), depth=5)
    assert shallow.positions == [2, 3, 4]
    assert (shallow.wants_more, shallow.missing) == (True, 2)
    assert not run(Rules(2, 4, 5), known([]), depth=12).wants_more
    assert not run(Rules(2, 4, 50), known([]), depth=12).wants_more  # the whole pool was ranked
    assert not run(Rules(2, 4, 5, similarity_range=(0.8, 1.0)), known([]), depth=5).wants_more  # all deeper are lower


def test_a_range_beyond_the_pool_gives_nothing() -> None:
    chosen = run(Rules(20, 30, 5), known([]))
    assert (chosen.positions, chosen.in_range, chosen.missing, chosen.wants_more) == ([], 0, 5, False)


def test_kept_negatives_fill_places_and_are_not_mined_again() -> None:
    facts = Known(frozenset(), frozenset(), identity("q"), 0.9, kept=(identity(POOL[2]),))
    chosen = run(Rules(2, 5, 3, pad=False), facts)
    assert chosen.positions == [3, 4]
    assert chosen.dropped["duplicate"] == 1
    full = Known(frozenset(), frozenset(), identity("q"), 0.9, kept=tuple(range(9)))
    assert run(Rules(2, 5, 3), full).positions == []


def test_keep_drops_positives_repeats_and_the_query() -> None:
    positives = frozenset({identity("good")})
    assert keep(["bad", "GOOD", "Bad", "q", "worse"], positives, identity("q")) == ["bad", "worse"]


SPELLINGS = [str, str.upper, str.title, "  {}\n".format, lambda text: text.replace(" ", "\u3000 ")]
WORDS = st.sampled_from([f"{a} {b}" for a in ("red", "blue", "green") for b in ("fox", "hen", "owl", "cat")])
TEXTS = st.tuples(WORDS, st.sampled_from(SPELLINGS)).map(lambda pair: pair[1](pair[0]))


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[str], list[float], list[str], list[str], Rules]:
    pool = draw(st.lists(TEXTS, max_size=25, unique=True))
    cosines = sorted(draw(st.lists(st.floats(-1, 1), min_size=len(pool), max_size=len(pool))), reverse=True)
    start = draw(st.integers(0, 8))
    rules = Rules(
        start,
        start + draw(st.integers(1, 12)),
        draw(st.integers(1, 8)),
        similarity_range=draw(st.sampled_from([None, (-0.5, 0.8), (0.0, 1.0)])),
        max_positive_ratio=draw(st.sampled_from([None, 0.9])),
        sampling=draw(st.sampled_from(["random", "top"])),
        pad=draw(st.booleans()),
    )
    return pool, cosines, draw(st.lists(TEXTS, max_size=4)), draw(st.lists(TEXTS, max_size=3)), rules


@settings(max_examples=300, deadline=None)
@given(cases(), st.integers(0, 5), st.integers(0, 25))
def test_properties(case: tuple[list[str], list[float], list[str], list[str], Rules], row: int, cut: int) -> None:
    pool, cosines, positives, siblings, rules = case
    facts = known(positives, siblings, query="Blue  OWL", lowest=0.7)
    marks = [identity(text) for text in pool]
    depth = min(len(pool), rules.stop + cut)
    ranking = Ranking(list(range(depth)), cosines[:depth])
    chosen = select(ranking, marks, facts, rules, stream(42, "mine", row), len(pool))
    taken = [marks[position] for position in chosen.positions]
    assert not set(taken) & (facts.same_query | {facts.query})
    assert len(set(taken)) == len(taken) <= rules.number
    assert all(position >= rules.start for position in chosen.positions)
    assert all(position >= rules.stop for position in chosen.positions[len(taken) - chosen.padded :])
    assert chosen.in_range == chosen.survivors + sum(chosen.dropped.values())
    assert set(chosen.dropped) <= set(RULES)
    assert chosen.missing == (rules.number - len(taken))
    assert rules.pad or chosen.padded == 0
    random.seed(row)  # the global state must not matter
    assert select(ranking, marks, facts, rules, stream(42, "mine", row), len(pool)) == chosen
    if chosen.padded == 0 and depth >= min(rules.stop, len(pool)):
        deeper = Ranking(list(range(len(pool))), cosines)
        again = select(deeper, marks, facts, rules, stream(42, "mine", row), len(pool))
        assert again.positions[: len(taken)] == chosen.positions
