# SPDX-License-Identifier: Apache-2.0
"""hardend.toml and conf.d: fragments are read, merged, checked into settings; all faults at once.

Fragments count in the order of their names, after hardend.toml: tables merge, everything else
replaces. Of the paths and globs in [paths.classes] a later one counts more than an earlier one.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime
from typing import Any

from hardend.config_values import (
    FaultError,
    classes_by_path,
    command_line,
    is_path,
    name_list,
    number,
    path_list,
    short,
    text_like,
    time_span,
    time_spans,
    truth,
    word_of,
)
from hardend.errors import ConfigError, FileError
from hardend.kernel.tree import Tree
from hardend.model import Host, Mode, printable
from hardend.settings import Block as Block  # noqa: PLC0414 - part of what this module offers
from hardend.settings import Expiry as Expiry  # noqa: PLC0414 - part of what this module offers
from hardend.settings import Policy as Policy  # noqa: PLC0414 - part of what this module offers
from hardend.settings import Priority as Priority  # noqa: PLC0414 - as above
from hardend.settings import Restart as Restart  # noqa: PLC0414 - as above
from hardend.settings import Settings as Settings  # noqa: PLC0414 - as above
from hardend.settings import TrustedUnit as TrustedUnit  # noqa: PLC0414 - as above
from hardend.settings import Waiver as Waiver  # noqa: PLC0414 - as above

MAIN = "/etc/hardend/hardend.toml"
FRAGMENTS = "/etc/hardend/conf.d"
_RELAY = r"(?:(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?)?"
_ADDRESS = r"[!#$%&'*+/=?^`{|}~A-Za-z0-9_-]+(?:\.[A-Za-z0-9_+=-]+)*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*"
_TOML_LINE = re.compile(r" \(at line (\d+), column \d+\)\Z")


# Table and key of the file -> setting and its check.
KEYS: Mapping[tuple[str, str], tuple[str, Callable[[object], object]]] = {
    ("guard", "mode"): ("mode", word_of(Mode)),
    ("guard", "sweep_ms"): ("sweep_ms", number(50, 60_000)),
    ("guard", "hash_interval"): ("hash_interval_s", time_span("s", "10s", "1d")),
    ("guard", "contested_count"): ("contested_count", number(2, 10_000)),
    ("guard", "contested_within"): ("contested_within_s", time_span("s", "1s", "1d")),
    ("guard", "spare_max_mib"): ("spare_max_mib", number(1, 1024)),
    ("guard", "max_off"): ("max_off", time_span("s", "1m", "30d")),
    ("windows", "max_window"): ("max_window_s", time_span("s", "1m", "7d")),
    ("windows", "default_window"): ("default_window_s", time_span("s", "1m", "7d")),
    ("windows", "on_expiry"): ("on_expiry", word_of(Expiry)),
    ("windows", "warn"): ("warn_s", time_spans),
    ("rebuild", "restart"): ("restart", word_of(Restart)),
    ("rebuild", "reload_interval"): ("reload_interval_s", time_span("s", "1s", "1d")),
    ("rebuild", "map_exchange_interval_ms"): ("map_exchange_interval_ms", number(100, 600_000)),
    ("rebuild", "command_timeout"): ("command_timeout_s", time_span("s", "1s", "1h")),
    ("quarantine", "max_mib"): ("quarantine_max_mib", number(1, 1 << 20)),
    ("quarantine", "max_age"): ("quarantine_max_days", time_span("d", "1d", "3650d")),
    ("quarantine", "object_max_mib"): ("quarantine_object_max_mib", number(1, 1 << 20)),
    ("baseline", "require_signature"): ("require_signature", truth),
    ("baseline", "own"): ("baseline_own", path_list),
    ("alerts", "command"): ("alert_command", command_line),
    ("alerts", "relay"): (
        "alert_relay",
        text_like('a host or host:port, such as "mx.example.net:587"', _RELAY),
    ),
    ("alerts", "from"): ("alert_from", text_like('an address, or ""', rf"(?:{_ADDRESS})?")),
    ("alerts", "to"): ("alert_to", name_list('addresses, such as ["ops@example.net"]', _ADDRESS)),
    ("alerts", "min_priority"): ("alert_min_priority", word_of(Priority)),
    ("alerts", "burst"): ("alert_burst", number(1, 1000)),
    ("alerts", "repeat"): ("alert_repeat_s", time_span("s", "1m", "30d")),
    ("paths", "lock"): ("lock", path_list),
    ("paths", "unlock"): ("unlock", path_list),
    ("paths", "protect"): ("protect", path_list),
    ("paths", "classes"): ("classes", classes_by_path),
    ("rules", "smrsh_programs"): (
        "smrsh_programs",
        name_list('program names or absolute paths, such as ["procmail"]', r"[\w.+@-]+|(?:/[\w.+@-]+)+"),
    ),
    ("rules", "alias_files"): ("alias_files", path_list),
    ("rules", "remove_redirects"): (
        "remove_redirects",
        name_list('names of aliases, such as ["games", "uucp"]', r"[\w.+-]+"),
    ),
    ("rules", "notice_country"): (
        "notice_country",
        text_like('two letters, such as "DE", or ""', r"(?:[A-Za-z]{2})?"),
    ),
    ("rules", "notice_region"): (
        "notice_region",
        text_like('letters, digits, - and _, such as "BY", or ""', r"[A-Za-z0-9_-]{0,32}"),
    ),
    ("rules", "received_version"): ("received_version", truth),
}
_WAIVERS = "waivers"
_WAIVER_KEYS = ("rule", "reason", "until")
_BLOCKS = "blocks"
_BLOCK_KEYS = ("path", "reason", "begin", "end", "pattern")
_TRUSTED = "trusted_units"
_TRUSTED_KEYS = ("unit", "reason", "paths")
_TABLES = sorted({table for table, _ in KEYS} | {_WAIVERS, _BLOCKS, _TRUSTED})
_COMMENT = re.compile(r"(?:#|dnl\b)[^\n\r\0]*[^\s\\]")  # a marker; a backslash would continue it
_PATTERN = re.compile(r"(?=.*[^*?])[^\s#][^\n\r\0]*")
_GLOB = re.compile(r"[*?[]")
# systemd.unit(5); of the types that processes are in. A template (puppet@.service) never runs itself.
_UNIT = re.compile(
    r"(?=.{1,255}\Z)[A-Za-z0-9:_.\\@-]*[A-Za-z0-9:_.\\-]\.(?:service|scope|socket|mount|swap)"
)
_OWN_UNIT = re.compile(r"hardend(?:-[a-z]+)?(?:@.*)?\.[a-z]+")


def fragments(host: Host) -> list[str]:
    """Return the files of the configuration that are there, in the order in which they count.

    hardend.toml and conf.d/*.toml, as found from here; hidden files are none. Raises ConfigError when
    conf.d cannot be listed.
    """
    tree = Tree(host)
    faults: list[str] = []
    paths = [host.at(path) for path in _files(host, tree, faults)]
    if faults:
        raise ConfigError(tuple(faults))
    return paths


def load(host: Host) -> Settings:
    """Return the settings of a host; what no file sets is at its default.

    Raises ConfigError with every fault of every file: file, key, and what is accepted.
    """
    tree = Tree(host)
    faults: list[str] = []
    values: dict[str, object] = {}
    for path in _files(host, tree, faults):
        shown = printable(host.at(path))
        for table, content in _document(tree, path, shown, faults).items():
            if table in _ARRAYS:
                values[table] = (*_tuple(values.get(table)), *_ARRAYS[table](shown, content, faults))
            elif table not in _TABLES:
                faults.append(f"{shown}: {_unknown('table', f'[{table}]', table, _TABLES)}")
            elif not isinstance(content, dict):
                faults.append(f"{shown}: {table}: must be a table, written [{table}]")
            else:
                _check_table(shown, table, content, values, faults)
    if not faults:
        settings = Settings(**values)  # type: ignore[arg-type] # each check returns its field's type
        shown = printable(host.at(MAIN))
        faults += [f"{shown}: {fault}" for fault in settings.contradictions()]
    if faults:
        raise ConfigError(tuple(faults))
    return settings


def _files(host: Host, tree: Tree, faults: list[str]) -> list[str]:
    names: list[str] = []
    if _is_there(tree, FRAGMENTS):
        try:
            names = tree.names(FRAGMENTS)
        except FileError as error:
            faults.append(f"{host.at(FRAGMENTS)}: cannot be read: {_reason(error)}")
    chosen = [name for name in names if name.endswith(".toml") and not name.startswith(".")]
    main = [MAIN] if _is_there(tree, MAIN) else []
    return main + [os.path.join(FRAGMENTS, name) for name in chosen]


def _is_there(tree: Tree, path: str) -> bool:
    """Return whether something is there; a link that leads nowhere is, and is then a fault."""
    try:
        return tree.exists(path) or tree.link_mode(path) != 0
    except FileError:
        return True


def _check_table(
    shown: str,
    table: str,
    content: Mapping[str, object],
    values: dict[str, object],
    faults: list[str],
) -> None:
    known = [key for group, key in KEYS if group == table]
    for key, value in content.items():
        if key not in known:
            faults.append(f"{shown}: {_unknown('key', f'{table}.{key}', key, known)}")
            continue
        name, check = KEYS[table, key]
        try:
            checked = check(value)
        except FaultError as fault:
            given = "" if isinstance(value, dict) else f" = {short(value)}"
            faults.append(f"{shown}: {table}.{key}{given}: must be {fault}")
            continue
        values[name] = _merged(values.get(name), checked) if name == "classes" else checked


def _tuple(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else ()


def _waivers(shown: str, content: object, faults: list[str]) -> Iterable[Waiver]:
    """Check [[waivers]]: rule and reason, and until which day."""
    for place, item in _items(shown, _WAIVERS, content, (_WAIVER_KEYS, ("rule", "reason")), faults):
        before = len(faults)
        until = item.get("until")
        if until is not None and (not isinstance(until, date) or isinstance(until, datetime)):
            faults.append(f"{place}: until = {short(until)}: must be a day, such as 2027-01-31, no quotes")
        if len(faults) == before:
            yield Waiver(item["rule"], item["reason"], until)


def _blocks(shown: str, content: object, faults: list[str]) -> Iterable[Block]:
    """Check [[blocks]]: a path, the lines in it that are somebody else's, and why."""
    for place, item in _items(shown, _BLOCKS, content, (_BLOCK_KEYS, ("path", "reason")), faults):
        begin, end, pattern = (item.get(key, "") for key in ("begin", "end", "pattern"))
        if not is_path(item["path"]) or _GLOB.search(item["path"]):
            faults.append(f"{place}: path = {short(item['path'])}: must be the absolute path of one file")
        elif (pattern == "") is (begin == end == ""):
            faults.append(f"{place}: must have begin and end, or pattern")
        elif pattern and not (isinstance(pattern, str) and _PATTERN.fullmatch(pattern)):
            faults.append(f"{place}: pattern = {short(pattern)}: must be a glob for some whole lines")
        elif not pattern and not all(isinstance(t, str) and _COMMENT.fullmatch(t) for t in (begin, end)):
            faults.append(f"{place}: begin and end: must both be a comment, a whole line that begins with #")
        elif begin and begin == end:
            faults.append(f"{place}: begin and end: must not be the same line")
        else:
            yield Block(item["path"], item["reason"], begin, end, pattern)


def _trusted(shown: str, content: object, faults: list[str]) -> Iterable[TrustedUnit]:
    """Check [[trusted_units]]: a unit, why, and with which paths it is trusted."""
    for place, item in _items(shown, _TRUSTED, content, (_TRUSTED_KEYS, ("unit", "reason")), faults):
        before = len(faults)
        unit, paths = item["unit"], item.get("paths")
        if not _UNIT.fullmatch(unit):
            faults.append(f"{place}: unit = {short(unit)}: must be the full name of one, as puppet.service")
        elif _OWN_UNIT.fullmatch(unit):
            faults.append(f"{place}: unit = {short(unit)}: must not be one of hardend's own")
        is_list = isinstance(paths, list) and bool(paths)
        if paths is not None and not (is_list and all(is_path(p) and not _GLOB.search(p) for p in paths)):
            faults.append(f"{place}: paths = {short(paths)}: must be absolute paths of files, at least one")
        if len(faults) == before:
            yield TrustedUnit(unit, item["reason"], tuple(dict.fromkeys(paths or ())))


_ARRAYS: Mapping[str, Callable[[str, object, list[str]], Iterable[object]]] = {
    _WAIVERS: _waivers,
    _BLOCKS: _blocks,
    _TRUSTED: _trusted,
}


def _items(
    shown: str,
    name: str,
    content: object,
    keys: tuple[tuple[str, ...], tuple[str, ...]],
    faults: list[str],
) -> Iterable[tuple[str, dict[str, Any]]]:
    """Yield the tables of an array with their place, without those that lack a key or have one too many."""
    if not isinstance(content, list) or not all(isinstance(item, dict) for item in content):
        faults.append(f"{shown}: {name}: must be an array of tables, written [[{name}]]")
        return
    known, needed = keys
    for count, item in enumerate(content, 1):
        place = f"{shown}: {name}, the {count}. one"
        wrong = [_unknown("key", key, key, list(known)) for key in item if key not in known]
        missing = [key for key in needed if not isinstance(item.get(key), str) or not item[key].strip()]
        wrong += [f"{key}: must be there, a text in quotes" for key in missing]
        faults += [f"{place}: {fault}" for fault in wrong]
        if not wrong:
            yield place, item


def _merged(before: object, later: object) -> object:
    """Put later pairs behind earlier ones; a path that is named again counts where it is later."""
    if not isinstance(before, tuple) or not isinstance(later, tuple):
        return later
    again = dict(later)
    return (*(pair for pair in before if pair[0] not in again), *later)


def _document(tree: Tree, path: str, shown: str, faults: list[str]) -> dict[str, object]:
    data = b""
    try:
        data = tree.read(path)
        return tomllib.loads(data.decode("utf-8"))
    except FileError as error:
        faults.append(f"{shown}: cannot be read: {_reason(error)}")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        faults.append(f"{shown}:{line}: not UTF-8")
    except tomllib.TOMLDecodeError as error:
        where = _TOML_LINE.search(str(error))
        place = f"{shown}:{where[1]}" if where else shown
        faults.append(f"{place}: not TOML: {_TOML_LINE.sub('', str(error))}")
    except RecursionError:
        faults.append(f"{shown}: not TOML: nested too deeply")
    return {}


def _reason(error: FileError) -> str:
    cause = error.__cause__
    return str(cause.strerror) if isinstance(cause, OSError) else str(error).rpartition(": ")[2]


def _unknown(kind: str, written: str, word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    return f"{printable(written)}: unknown {kind}; {hint}"
