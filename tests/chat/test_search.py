from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest
from turbosparse.chat.search import CLOSE, OPEN, match_expression, search
from turbosparse.chat.store import Store

from tests.chat.test_store import talk


def test_finds_words_of_messages_and_titles(store: Store) -> None:
    key, ids = talk(store, "Which volcano is the highest?", "Ojos del Salado, in the Andes.")
    other = store.create("Volcano trip").id
    hits = search(store, "volcano")
    assert {hit.conversation_id for hit in hits} == {key, other}
    hit = next(hit for hit in hits if hit.conversation_id == key)
    assert hit.message_id == ids[0]
    assert f"{OPEN}volcano{CLOSE}" in hit.excerpt
    assert [h.message_id for h in search(store, "sal")] == [ids[1]]  # the last word is a beginning
    assert search(store, "sal andes") == []  # only the last one
    assert [h.message_id for h in search(store, "ándes")] == [ids[1]]


def test_finds_nothing_in_the_bin(store: Store) -> None:
    key, ids = talk(store, "alpha", "beta", "gamma")
    store.delete_message(ids[1])
    assert search(store, "beta") == []
    assert len(search(store, "alpha")) == 1
    store.delete(key)
    assert search(store, "alpha") == []


def test_follows_edits_and_ends_of_replies(store: Store) -> None:
    key, ids = talk(store, "first")
    reply = store.add(key, "assistant", "", parent=ids[0], status="streaming")
    store.write(reply.id, "zebra")
    assert search(store, "zebra") == []  # indexed at its end
    store.write(reply.id, "zebra crossing", status="complete")
    assert len(search(store, "zebra")) == 1
    store.write(reply.id, "okapi", status="complete")
    assert search(store, "zebra") == []
    store.update(key, title="giraffe")
    assert len(search(store, "giraffe")) == 1
    assert search(store, "talk") == []


@pytest.mark.parametrize("text", ['"', "a AND", "NEAR(", "col:x", "*", "' OR 1=1 --", "a^b", "-x", "(((", "\x00", "é"])
def test_no_text_is_an_operator(store: Store, text: str) -> None:
    talk(store, "some words")
    search(store, text)


def test_expression() -> None:
    assert match_expression("two wor") == '"two" "wor"*'
    assert match_expression(" ?! ") == ""


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """100,000 messages in 1,000 conversations, and one of 2,000 messages."""
    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(8000)]
    texts = ["the " + " ".join(draw.choices(words, k=12)) for _ in range(4001)]
    with Store(tmp_path_factory.mktemp("big")) as store, store.db.transaction():
        for c in range(1, 1002):
            key = store.create(f"conversation {c}").id
            n = 2000 if c == 1001 else 100
            first = int(store.db.rows("SELECT coalesce(max(id), 0) AS id FROM message")[0]["id"]) + 1
            store.db.many(
                "INSERT INTO message(id, conversation_id, parent_id, role, content, status, created_at) "
                "VALUES (?, ?, ?, ?, ?, 'complete', ?)",
                (
                    (
                        first + i,
                        key,
                        first + i - 1 if i else None,
                        "assistant" if i % 2 else "user",
                        texts[(first + i) % len(texts)],
                        float(i),
                    )
                    for i in range(n)
                ),
            )
            store.set_head(key, first + n - 1)
    with Store(store.db.path.parent) as opened:
        yield opened


def best_of(action: object, rounds: int = 5) -> float:
    """Shortest wall time, in milliseconds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        action()  # type: ignore[operator]
        times.append(1e3 * (time.perf_counter() - start))
    return min(times)


@pytest.mark.parametrize("text", ["the", "t", "co", "conversation", "the aa", "absentword", "the the the t"])
def test_search_over_100000_messages_takes_less_than_100_ms(big: Store, text: str) -> None:
    assert best_of(lambda: search(big, text)) < 100


def test_conversation_of_2000_messages_is_read_within_its_share_of_300_ms(big: Store) -> None:
    key = big.conversations()[0].id
    assert len(big.path(key)) == 2000
    assert best_of(lambda: big.path(key)) < 100
