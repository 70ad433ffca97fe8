"""The worker's end of questions: of what waits, what is answered and what is not."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from nmerge_core.progress import silent
from nmerge_core.runs.answering import QuestionServer, heed, heed_models
from nmerge_core.runs.lock import hold_worker_lock
from nmerge_core.runs.questions import Superseded, ask_worker


@pytest.fixture
def server(tmp_path, wait):
    """A question server in this process, whose main thread answers when the test says so."""

    def rest(name, recipe=None):
        begun.append(name)
        while name == "until another is asked":
            heed("Resting", 1, 4, "naps")
            time.sleep(0.01)
        while name == "until all have left":
            heed_models("Reading", 2, 4, "files")
            time.sleep(0.01)
        return name

    begun: list[str] = []
    with hold_worker_lock(tmp_path) as _, ThreadPoolExecutor(8) as pool:
        here = QuestionServer(tmp_path, {"rest": rest})

        def ask(name, session="", timeout=20, progress=silent, models=()):
            """Have a question asked, and return when it waits; its answer comes as a future."""
            heard = here._waiting.qsize()
            arguments = {"name": name, "recipe": {"models": list(models)}}
            answer = pool.submit(ask_worker, tmp_path, 1, "rest", arguments, timeout, session, lambda: None, progress)
            wait(lambda: here._waiting.qsize() > heard)
            return answer

        yield SimpleNamespace(ask=ask, answer=here.answer, begun=begun)


def dropped(answer):
    with pytest.raises(Superseded, match="A newer question has taken the place of this one"):
        answer.result(timeout=20)
    return True


def test_of_a_session_s_questions_that_wait_the_newest_is_answered(server):
    first, other, plain = server.ask("a", "one"), server.ask("x", "two"), server.ask("plain")
    second = server.ask("b", "one")
    assert dropped(first)  # before any is answered
    third = server.ask("c", "one")
    assert dropped(second) and not (other.done() or plain.done() or third.done())
    while server.answer():
        pass
    assert [answer.result() for answer in (other, plain, third)] == ["x", "plain", "c"] == server.begun
    after = server.ask("d", "one")
    server.answer()
    assert after.result() == "d"


def test_what_is_being_answered_ends_where_the_session_asks_anew(server, wait):
    answered = threading.Thread(target=server.answer, args=(20,))
    first = server.ask("until another is asked", "one")
    answered.start()
    wait(lambda: server.begun)
    second = server.ask("b", "one")
    assert dropped(first)
    answered.join()
    server.answer()
    assert second.result() == "b"


def test_what_nobody_waits_for_any_more_is_not_answered(server, wait):
    late = server.ask("late", timeout=0.1)
    with pytest.raises(TimeoutError):
        late.result()
    gone = server.ask("until another is asked", timeout=1)
    while server.answer():  # it ends when nobody waits for it
        pass
    with pytest.raises(TimeoutError):
        gone.result()
    assert server.begun == ["until another is asked"]


def test_whoever_waits_hears_what_is_being_done(server, wait):
    told: dict[str, set[tuple]] = {"asker": set(), "other": set()}
    asked = server.ask("until another is asked", "one", progress=lambda *report: told["asker"].add(report))
    other = server.ask("x", "two", progress=lambda *report: told["other"].add(report))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(server.answer)
        wait(lambda: all(told.values()))
        server.ask("b", "one")
    assert told == {"asker": {("Resting", 1, 4, "naps")}, "other": {("Resting", 1, 4, "naps")}}
    assert dropped(asked)
    while server.answer():
        pass
    assert other.result() == "x"


class Left(Exception):
    """Whoever asked waits no more."""


def leave(*report):
    raise Left


def test_what_is_done_for_one_who_has_left_ends(server):
    asked = server.ask("until another is asked", "one", progress=leave)
    assert server.answer()  # which would never return
    with pytest.raises(Left):
        asked.result()


def test_what_a_session_needs_all_the_same_goes_on_until_the_session_has_left(server, wait, monkeypatch):
    leaving, waiting_for = threading.Event(), QuestionServer._waiting_for

    @contextmanager
    def slowly(*given):
        time.sleep(0.1)  # in which the first question is asked for all the same
        with waiting_for(*given):
            yield

    monkeypatch.setattr(QuestionServer, "_waiting_for", slowly)

    def stay(*report):
        if leaving.is_set():
            raise Left

    first = server.ask("until all have left", "one", progress=stay)
    with ThreadPoolExecutor(1) as pool:
        answered = pool.submit(server.answer)
        wait(lambda: server.begun == ["until all have left"])
        second = server.ask("b", "one", progress=stay)
        time.sleep(0.6)  # in which it is told twice of what goes on
        assert not answered.done() and not second.done()
        leaving.set()
        assert answered.result(timeout=20)
    for asked in (first, second):
        with pytest.raises(Left):
            asked.result(timeout=20)


def test_models_that_a_session_asks_about_no_more_are_read_no_further(server, wait):
    first = server.ask("until all have left", "one", models=["math", "code"])
    with ThreadPoolExecutor(1) as pool:
        answered = pool.submit(server.answer)
        wait(lambda: server.begun == ["until all have left"])
        other = server.ask("b", "another", models=["math", "code"])
        second = server.ask("c", "one", models=["prose"])
        assert answered.result(timeout=20) and dropped(first)
    while server.answer():
        pass
    assert [other.result(), second.result()] == ["b", "c"]
