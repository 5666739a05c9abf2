"""The session store: laws that hold after any operations, and faults of real disks."""

import os
import random
import shutil
import signal
import sqlite3
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from session_turns import chain, picture, require_laws, result

from kontext_core.disk import PARTIAL
from kontext_core.sessions import Made, SessionError, Store, cleanup, database, files

KILLS, KILLS_A_STORE = 200, 20


@pytest.fixture
def opened(tmp_path):
    return Store(tmp_path / "sessions")


# Storing


def test_a_turn_comes_back_as_it_was_stored(opened):
    session = opened.begin("Ω 人", picture(0), {"workflow": "{}"})
    made = Made("make it red", str((1 << 64) - 1), {"4": {"steps": 28}}, "flux", {"prompt": '{"a": "é"}'})
    (turn,) = opened.add(session.pointer, [result(1, latent=True)], made)
    again = Store(opened.folder)
    assert again.turn(turn.id) == turn
    assert (turn.instruction, turn.seed, turn.settings, turn.model) == (
        made.instruction,
        made.seed,
        made.settings,
        made.model,
    )
    assert turn.kept == (result(1).mask == 0).mean()
    np.testing.assert_array_equal(again.picture(turn), picture(1))
    np.testing.assert_array_equal(again.mask(turn), result(1).mask)
    torch.testing.assert_close(again.latent(turn), torch.full((16, 3, 4), 1.0))
    with Image.open(again.file(turn, files.PICTURE)) as file:
        assert file.text == {"prompt": '{"a": "é"}'}


def test_a_name_is_a_session_once(opened):
    first = opened.begin("portrait", picture(0))
    assert opened.begin("  portrait ", picture(1)).id == first.id
    assert len(opened.sessions()) == 1
    assert opened.find("Portrait") is None


@pytest.mark.parametrize("name", ["", "  ", "a\x00b", "x" * 201], ids=["empty", "spaces", "control", "long"])
def test_a_name_must_be_one(opened, name):
    with pytest.raises(SessionError, match="name of 1 to 200"):
        opened.begin(name, picture(0))


def test_the_same_result_is_stored_once(opened):
    session, ids = chain(opened, 2)
    before = opened.turns(session)
    (turn,) = opened.add(ids[0], [result(1)], Made("make it 1", seed="another"))
    assert turn.id == ids[1]
    assert [t._replace(visited=0) for t in opened.turns(session)] == [t._replace(visited=0) for t in before]
    assert opened.session(session).pointer == ids[1]  # a run moves the pointer to its turn
    assert len(opened.add(ids[0], [result(1)], Made("other words"))) == 1
    assert len(opened.turns(session)) == 4


def test_a_batch_becomes_siblings(opened):
    session, ids = chain(opened, 0)
    turns = opened.add(ids[0], [result(1), result(2), result(1)], Made("make it 1"))
    assert turns[0] == turns[2]
    assert [turn.parent for turn in turns] == [ids[0]] * 3
    assert opened.session(session).pointer == turns[0].id
    assert len(opened.turns(session)) == 3


# The pointer


def test_the_pointer_walks_the_tree(opened):
    """0 - 1 - 2 and 0 - 3 - 4, where 4 was made last."""
    session, ids = chain(opened, 2)
    (third,) = opened.add(ids[0], [result(3)], Made("make it 3"))
    (fourth,) = opened.add(third.id, [result(4)], Made("make it 4"))
    walked = [opened.step(session, how).number for how in ("undo", "undo", "undo", "redo", "redo", "redo")]
    assert walked == [3, 0, 0, 3, 4, 4]
    opened.move(ids[2])
    walked = [opened.step(session, how).number for how in ("undo", "undo", "redo", "next sibling", "next sibling")]
    assert walked == [1, 0, 1, 3, 1]
    assert opened.step(session, "previous sibling").id == third.id
    with pytest.raises(SessionError, match="not a step"):
        opened.step(session, "sideways")
    assert [turn.number for turn in opened.path(fourth.id)] == [0, 3, 4]


def test_only_moves_by_hand_count_as_moves(opened):
    session, ids = chain(opened, 2)
    moves, revision = opened.fact("moves"), opened.fact("revision")
    opened.add(ids[0], [result(1)], Made("make it 1"))
    opened.star(ids[1], True)
    assert (opened.fact("moves"), opened.fact("revision")) == (moves, revision + 2)
    opened.move(ids[0])
    assert opened.fact("moves") == moves + 1
    opened.step(session, "undo")  # no effect at the root
    assert opened.fact("moves") == moves + 1


# Marks and deletions


def test_marks_stay(opened):
    session, ids = chain(opened, 1)
    opened.star(ids[1], True)
    opened.note(ids[1], "<b>the good one</b>")
    opened.rename(session, "better")
    turn = opened.turn(ids[1])
    assert (turn.star, turn.note, opened.session(session).name) == (True, "<b>the good one</b>", "better")
    opened.begin("taken", picture(0))
    with pytest.raises(SessionError, match="has the name 'taken'"):
        opened.rename(session, "taken")
    with pytest.raises(SessionError, match="at most 10000 are allowed"):
        opened.note(ids[1], "x" * 10_001)


def test_a_deletion_takes_what_follows_and_comes_back_whole(opened):
    session, ids = chain(opened, 4)
    before = [turn.id for turn in opened.turns(session)]
    deletion = opened.delete_turn(ids[2])
    assert [turn.number for turn in opened.turns(session)] == [0, 1]
    assert opened.session(session).pointer == ids[1]
    with pytest.raises(SessionError, match="no such turn"):
        opened.turn(ids[3])
    assert opened.restore(deletion) == session
    assert [turn.id for turn in opened.turns(session)] == before
    assert opened.session(session).pointer == ids[4]
    with pytest.raises(SessionError, match="restored already"):
        opened.restore(deletion)
    require_laws(opened)


def test_what_comes_back_brings_what_it_hangs_on(opened):
    session, ids = chain(opened, 4)
    inner, outer = opened.delete_turn(ids[3]), opened.delete_turn(ids[1])
    whole = opened.delete_session(session)
    assert [each.id for each in opened.plan().deleted] == [whole, outer, inner]
    opened.restore(inner)
    assert [turn.number for turn in opened.turns(session)] == [0, 1, 2, 3, 4]
    assert opened.plan().deleted == ()  # the other deletions are gone
    require_laws(opened)


def test_a_run_that_was_under_way_brings_its_parent_back(opened):
    session, ids = chain(opened, 2)
    opened.delete_turn(ids[1])
    opened.delete_session(session)
    opened.begin("a session", picture(9))  # takes its name in the meantime
    (turn,) = opened.add(ids[2], [result(5)], Made("make it 5"))
    assert [each.number for each in opened.path(turn.id)] == [0, 1, 2, 3]
    assert opened.session(session).name == "a session (2)"
    require_laws(opened)


def test_turn_0_goes_with_its_session_only(opened):
    session, ids = chain(opened, 1)
    with pytest.raises(SessionError, match="delete the session"):
        opened.delete_turn(ids[0])
    deletion = opened.delete_session(session)
    assert opened.sessions() == []
    assert opened.restore(deletion) == session
    require_laws(opened)


# Cleaning up


def test_a_clean_up_removes_what_its_plan_named_and_no_more(opened):
    session, ids = chain(opened, 4)
    opened.thumbnail(opened.turn(ids[4]))
    used = opened.plan().used
    opened.delete_turn(ids[3])
    plan = opened.plan()
    assert [(each.turns, each.whole) for each in plan.deleted] == [(2, False)]
    later = opened.delete_turn(ids[2])
    assert opened.clean(plan) == plan.freed > 0
    assert opened.plan().used == used - plan.freed
    opened.restore(later)
    assert [turn.number for turn in opened.turns(session)] == [0, 1, 2]
    opened.clean(opened.plan())
    (turn,) = opened.add(ids[2], [result(7)], Made("make it 7"))
    assert turn.number == 5  # numbers of cleaned turns are not reused
    require_laws(opened)


def test_a_cleaned_session_leaves_nothing(opened):
    session, ids = chain(opened, 2)
    opened.delete_turn(ids[2])
    opened.delete_session(session)
    opened.clean(opened.plan())
    assert list(opened.pictures.iterdir()) == []
    assert opened.plan() == cleanup.Plan(0, 10_000_000_000, (), (), 0, (), 0)
    with pytest.raises(SessionError, match="no such turn"):
        opened.add(ids[1], [result(5)], Made())
    assert list(opened.pictures.glob("*/*")) == []


def test_files_without_a_turn_go_when_they_are_old(opened):
    session, _ = chain(opened, 1)
    names = ["0" * 32 + files.PICTURE, "1" * 32 + files.PICTURE + ".x" + PARTIAL]
    for name in names:
        (opened.pictures / session / name).write_bytes(b"xyz")
    assert opened.plan().unnamed == ()  # a run may be storing them now
    for name in names:
        os.utime(opened.pictures / session / name, (0, 0))
    plan = opened.plan()
    assert plan.unnamed == tuple(f"{session}/{name}" for name in sorted(names))
    assert opened.clean(plan) == 6
    require_laws(opened)


def test_above_the_limit_the_oldest_latents_are_offered(opened):
    session, ids = chain(opened, 0)
    turns = [opened.add(ids[0], [result(number, latent=True)], Made(str(number)))[0] for number in (1, 2, 3)]
    opened.star(turns[0].id, True)
    size = opened.file(turns[0], files.LATENT).stat().st_size
    opened.set_limit(opened.plan().used - 1)
    plan = opened.plan()
    assert (plan.latents, plan.latents_size) == ((turns[1].id,), size)
    assert opened.clean(plan) == size
    assert [turn.latent for turn in opened.turns(session)] == [False, True, False, True]
    opened.set_limit(0)
    assert opened.plan().latents == ()
    with pytest.raises(SessionError, match="0 or more"):
        opened.set_limit(-1)
    require_laws(opened)


# Disk faults


def test_an_absent_store_is_empty_and_is_not_made_by_reading(opened):
    assert (opened.sessions(), opened.find("a"), opened.fact("revision")) == ([], None, 0)
    assert not opened.folder.exists()


def test_a_lost_picture_is_named_and_the_rest_is_usable(opened):
    session, ids = chain(opened, 3)
    lost = opened.turn(ids[2])
    opened.file(lost, files.PICTURE).unlink()
    assert opened.missing(session) == {lost.id}
    with pytest.raises(SessionError, match="turn 2: the file .* is missing"):
        opened.picture(lost)
    opened.file(opened.turn(ids[3]), files.PICTURE).write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    with pytest.raises(SessionError, match="turn 3: the file .* cannot be read"):
        opened.picture(opened.turn(ids[3]))
    np.testing.assert_array_equal(opened.picture(opened.turn(ids[1])), picture(1))
    opened.add(ids[1], [result(2)], Made("make it 2"))  # made again, it is complete again
    np.testing.assert_array_equal(opened.picture(lost), picture(2))


def test_a_newer_store_is_left_alone(opened):
    chain(opened, 1)
    with sqlite3.connect(opened.database) as db:
        db.execute("PRAGMA user_version = 99")
    content = opened.database.read_bytes()
    for call in (opened.sessions, lambda: opened.begin("b", picture(0))):
        with pytest.raises(SessionError, match="newer version .*schema 99.* Update the pack"):
            call()
    assert opened.database.read_bytes() == content


def test_an_older_store_is_migrated_whole_or_not_at_all(opened, monkeypatch):
    session, ids = chain(opened, 2)
    step = ["ALTER TABLE turns ADD COLUMN rating INTEGER NOT NULL DEFAULT 3"]
    monkeypatch.setattr(database, "MIGRATIONS", (*database.MIGRATIONS, [*step, "broken"]))
    with pytest.raises(SessionError, match="syntax error"):
        opened.sessions()
    monkeypatch.setattr(database, "MIGRATIONS", (*database.MIGRATIONS[:1], step))
    assert [turn.id for turn in opened.turns(session)] == ids
    with sqlite3.connect(opened.database) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (2,)
        assert db.execute("SELECT sum(rating) FROM turns").fetchone() == (9,)


def test_a_damaged_database_is_explained(opened):
    chain(opened, 1)
    opened.database.write_bytes(b"this is no database" * 100)
    with pytest.raises(SessionError, match="damaged: move it away"):
        opened.sessions()


def test_a_store_that_is_locked_for_long_is_explained(opened, monkeypatch):
    chain(opened, 1)
    monkeypatch.setattr(database, "PATIENCE", 0.05)
    with sqlite3.connect(opened.database) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(SessionError, match="Another process has been writing for too long"):
            opened.begin("b", picture(0))


def in_a_child(work, user=None):
    """Run `work` in a forked process, as another user if given; returns its text."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if user is not None:
                os.setuid(user)
            os.write(writer, str(work()).encode())
        except BaseException as error:
            os.write(writer, f"raised {error!r}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which Windows does not have")


@needs_fork
def test_a_read_only_store_is_read_and_says_why_it_is_not_written():
    folder = Path(tempfile.mkdtemp())  # readable by other users, unlike tmp_path
    try:
        opened = Store(folder)
        session, ids = chain(opened, 2)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)

        def look():
            turn = opened.turn(ids[2])
            texts = [str(len(opened.turns(session))), str(opened.picture(turn).shape), str(opened.thumbnail(turn)[:2])]
            for write in (lambda: opened.add(ids[2], [result(9)], Made()), lambda: opened.star(ids[1], True)):
                try:
                    write()
                except SessionError as error:
                    texts.append(str(error))
            return "\n".join(texts)

        nobody = 65534 if os.getuid() == 0 else None
        count, shape, start, picture_error, row_error = in_a_child(look, nobody).split("\n")
        assert (count, shape, start) == ("3", "(24, 32, 3)", str(b"\xff\xd8"))  # a JPEG
        assert "make the folder writable; nothing was stored" in picture_error
        assert "read-only: make it writable" in row_error
        require_laws(opened)
    finally:
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)
        shutil.rmtree(folder)


def on_a_full_disk(work):
    """`in_a_child` with a limit on file size, which simulates a full disk: a write fails in the middle, as there."""

    def limited():
        import resource  # absent on Windows, as fork is

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        return work()

    return in_a_child(limited)


@needs_fork
def test_a_file_that_does_not_fit_leaves_nothing(opened):
    session, ids = chain(opened, 1)
    before = sorted(opened.folder.rglob("*"))
    assert "Free some space" in on_a_full_disk(lambda: opened.add(ids[1], [result(2)], Made("make it 2")))
    assert sorted(opened.folder.rglob("*")) == before
    require_laws(opened)


@needs_fork
def test_a_thumbnail_that_does_not_fit_is_still_shown(opened):
    session, ids = chain(opened, 1)
    turn, before = opened.turn(ids[1]), sorted(opened.folder.rglob("*"))
    shown = on_a_full_disk(lambda: opened.thumbnail(turn))
    assert sorted(opened.folder.rglob("*")) == before
    assert shown == str(opened.thumbnail(turn)) == str(opened.file(turn, files.THUMBNAIL).read_bytes())


def test_a_batch_of_which_one_picture_does_not_fit_leaves_nothing(opened, monkeypatch):
    session, ids = chain(opened, 1)
    write, before = files.write_picture, sorted(opened.pictures.rglob("*"))

    def full(path, pixels, metadata):
        if np.array_equal(pixels, picture(3)):
            raise SessionError("The disk is full.")
        write(path, pixels, metadata)

    monkeypatch.setattr(files, "write_picture", full)
    with pytest.raises(SessionError, match="The disk is full"):
        opened.add(ids[1], [result(2), result(3), result(4)], Made("make it 2"))
    assert sorted(opened.pictures.rglob("*")) == before
    require_laws(opened)


def test_what_two_processes_store_at_once_has_the_files_of_one(opened, monkeypatch):
    session, ids = chain(opened, 1)
    write, other = opened._write_files, Store(opened.folder)

    def late(*arguments):
        write(*arguments)
        monkeypatch.setattr(opened, "_write_files", write)
        other.add(ids[1], [result(2)], Made("make it 2"))

    monkeypatch.setattr(opened, "_write_files", late)
    (turn,) = opened.add(ids[1], [result(2)], Made("make it 2"))
    assert {path.name.split(".")[0] for path in (opened.pictures / session).iterdir()} == {*ids, turn.id}
    require_laws(opened)


def test_a_turn_that_was_deleted_before_its_session_is_counted_once(opened):
    session, ids = chain(opened, 3)
    opened.delete_turn(ids[2])
    opened.delete_session(session)
    plan = opened.plan()
    assert sum(each.turns for each in plan.deleted) == len(ids)
    assert opened.usage() == (plan.used, plan.limit) and plan.used == plan.freed == opened.clean(plan)


def test_a_database_that_does_not_fit_leaves_nothing(opened, monkeypatch):
    session, ids = chain(opened, 1)
    connected = database._connected

    def full(path):
        connection = connected(path)
        connection.execute(f"PRAGMA max_page_count = {connection.execute('PRAGMA page_count').fetchone()[0]}")
        return connection

    monkeypatch.setattr(database, "_connected", full)
    before = sorted(opened.pictures.rglob("*"))
    with pytest.raises(SessionError, match="The disk is full: free some space"):
        opened.add(ids[1], [result(2)], Made("make it 2", settings={"long": "x" * 100_000}))
    assert sorted(opened.pictures.rglob("*")) == before
    require_laws(opened)


# Several processes, and a crash


def some_operation(opened, rng, acknowledge):
    """One random change; its result is acknowledged when the call has returned."""
    sessions = opened.sessions()
    if not sessions or rng.random() < 0.1:
        opened.begin(f"session {rng.randrange(4)}", picture(rng.randrange(1000)))
        return
    session = rng.choice(sessions)
    turns = opened.turns(session.id)
    kind = rng.random()
    if kind < 0.6:
        parent = rng.choice(turns)
        results = [result(rng.randrange(10**6), rng.random() < 0.5) for _ in range(rng.choice((1, 1, 2)))]
        for turn in opened.add(parent.id, results, Made(f"make it {rng.random()}")):
            acknowledge(turn.id)
    elif kind < 0.7:
        opened.move(rng.choice(turns).id)
    elif kind < 0.8:
        opened.thumbnail(rng.choice(turns))
    elif kind < 0.9 and len(turns) > 1:
        opened.restore(opened.delete_turn(rng.choice(turns[1:]).id))
    else:
        opened.clean(opened.plan())


def work_until_killed(folder, seed, pipe):
    opened, rng = Store(folder), random.Random(seed)
    while True:
        some_operation(opened, rng, lambda turn: os.write(pipe, turn.encode()))


@pytest.fixture
def quick_folder(tmp_path):
    """A folder in memory if possible: unlike a power cut, a kill does not depend on the disk."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="kontext-nodes-") as folder:
        yield Path(folder)


@needs_fork
def test_a_kill_at_any_moment_loses_nothing_that_was_stored(quick_folder):
    rng, count = random.Random(1), 0
    for kill in range(KILLS):
        if kill % KILLS_A_STORE == 0:  # else the trees grow, and checking them takes long
            opened, stored, known = Store(quick_folder / str(kill)), set(), set()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                work_until_killed(opened.folder, kill, writer)
            finally:
                os._exit(1)
        os.close(writer)
        time.sleep(rng.uniform(0, 0.15))
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])  # and did not end by its own error
        with os.fdopen(reader) as pipe:
            text = pipe.read()
        acknowledged = {text[at : at + 32] for at in range(0, len(text), 32)}
        count += len(acknowledged)
        stored |= acknowledged
        require_laws(opened, known if (kill + 1) % KILLS_A_STORE else frozenset())  # the last one reads every file
        known |= alive(opened)
        assert stored <= everything(opened)
    assert count > KILLS / 10  # the kills met work, on a slow machine too


def alive(opened):
    """The ids of all turns that are not deleted."""
    return {turn.id for session in opened.sessions() for turn in opened.turns(session.id)}


def everything(opened):
    """The ids of all turns, including those that a kill between deletion and restoring left deleted."""
    for deleted in opened.plan().deleted:
        opened.restore(deleted.id)
    return alive(opened)


@needs_fork
def test_two_processes_write_one_store(opened):
    session, ids = chain(opened, 0)

    def write(first):
        for number in range(first, first + 20):
            opened.add(ids[0], [result(number)], Made(f"make it {number}"))
        return "done"

    children = []
    for first in (100, 200):
        child = os.fork()
        if child == 0:
            try:
                write(first)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert [turn.number for turn in opened.turns(session)] == list(range(41))
    require_laws(opened)


@needs_fork
def test_two_processes_begin_one_session(opened):
    """Each gets the same session, and no file of the losing process remains."""
    children = []
    for number in (1, 2, 3):
        child = os.fork()
        if child == 0:
            try:
                for name in range(10):
                    opened.begin(f"session {name}", picture(number))
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert len(opened.sessions()) == 10
    assert len(list(opened.pictures.glob("*/*"))) == 10
    require_laws(opened)
