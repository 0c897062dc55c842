from __future__ import annotations

import asyncio
import sys
import sysconfig
from pathlib import Path

import b1
from b1.watchdog.dump import parse
from b1.watchdog.frames import Kind, Line, blamed, depth_of, frames_of, kind_of, lines_of, short_path, told

STDLIB = sysconfig.get_path("stdlib")
PACKAGES = sysconfig.get_path("purelib")
PROFILE = str(Path(b1.__file__).parent)

SOCKET = Line(f"{STDLIB}/socket.py", 718, "SocketIO.readinto")
CLIENT = Line(f"{PACKAGES}/urllib3/connection.py", 9, "read")
HANDLER = Line("/srv/app/routes.py", 41, "handler")
SERVICE = Line("/srv/app/service.py", 7, "fetch")
ROUTING = Line(f"{PACKAGES}/fastapi/routing.py", 300, "serialize_response")
LAYER = Line(f"{PROFILE}/asgi/middleware/observe.py", 54, "Observe.__call__")


def awaiting(line: Line) -> Line:
    return line._replace(awaits=True)


def test_files_belong_to_the_application_to_us_to_packages_or_to_python() -> None:
    assert Kind.APPLICATION is kind_of("/srv/app/routes.py")
    assert Kind.PROFILE is kind_of(f"{PROFILE}/db/pool.py")
    assert Kind.PACKAGE is kind_of(f"{PACKAGES}/fastapi/routing.py")
    assert Kind.LIBRARY is kind_of(f"{STDLIB}/socket.py")
    assert Kind.LIBRARY is kind_of("<string>")
    assert Kind.LIBRARY is kind_of("<frozen importlib._bootstrap>")


def test_the_applications_line_is_blamed_for_what_it_called() -> None:
    assert blamed([SOCKET, CLIENT, SERVICE, awaiting(HANDLER), awaiting(LAYER)]) == SERVICE


def test_a_layer_that_waits_is_not_blamed_for_what_is_inside() -> None:
    assert blamed([SOCKET, ROUTING, awaiting(HANDLER), awaiting(LAYER)]) == ROUTING


def test_b1s_own_line_is_blamed_when_it_calls_what_blocks() -> None:
    assert blamed([SOCKET, LAYER, awaiting(ROUTING)]) == LAYER


def test_of_packages_the_coroutine_is_blamed_that_called_what_blocks() -> None:
    assert blamed([CLIENT, CLIENT._replace(number=3), ROUTING, awaiting(LAYER)]) == ROUTING


def test_a_stack_of_pythons_own_files_blames_the_innermost() -> None:
    assert blamed([SOCKET, SOCKET._replace(number=1)]) == SOCKET
    assert blamed([]) is None


def test_a_long_stack_is_cut_and_says_so() -> None:
    lines = told([HANDLER._replace(number=number) for number in range(50)], 3)
    assert ("/srv/app/routes.py:0 handler", "/srv/app/routes.py:1 handler", "… 48 more") == lines


def test_a_path_is_told_from_where_it_was_imported() -> None:
    assert "b1/units.py" == short_path(f"{PROFILE}/units.py")
    assert "/nowhere/else.py" == short_path("/nowhere/else.py")


async def test_frames_of_coroutines_are_known_to_wait() -> None:
    async def inner() -> tuple[Line, ...]:
        def look() -> tuple[Line, ...]:
            return lines_of(frames_of(sys._getframe()))

        return look()

    async def outer() -> tuple[Line, ...]:
        return await inner()

    lines = await asyncio.create_task(outer())
    assert [False, False, True] == [line.awaits for line in lines[:3]]
    assert depth_of(sys._getframe()) == len(frames_of(sys._getframe()))


def test_the_last_stack_of_a_dump_is_read(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text("async def layer():\n    await handler()\n\nasync def handler():\n    match(text)\n")
    text = (
        'Stack (most recent call first):\n  File "/old.py", line 1 in old\n'
        "Current thread 0x00007f58 [python] (most recent call first):\n"
        f'  File "{STDLIB}/re/__init__.py", line 166 in match\n'
        f'  File "{source}", line 5 in handler\n'
        f'  File "{source}", line 2 in layer\n'
        "  ...\n"
    )
    lines = parse(text)
    assert ["match", "handler", "layer"] == [line.function for line in lines]
    assert [False, False, True] == [line.awaits for line in lines]
    assert blamed(lines) == lines[1]


def test_a_dump_without_frames_is_empty() -> None:
    assert () == parse("")
    assert () == parse("Stack (most recent call first):\n  <no Python frame>\n")
