# SPDX-License-Identifier: Apache-2.0
"""Every .mc that Debian's package sendmail-cf ships, and the .cf that it makes: read, judged, hardened.

What comes out is built by m4 and accepted by Sendmail itself; a table at the end says what became of each.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from hardend.errors import FormatError
from hardend.formats.cf import Cf
from hardend.formats.mc import Mc
from hardend.mcbuild import build_cf, same_configuration
from hardend.rules.documents import Documents
from hardend.rules.rule import Rule
from tests.unit.cf_corpus import NAMES, macros_in, plain_m4, shipped, text_of
from tests.unit.config_check import checked
from tests.unit.hardening import (
    ALIASES,
    GROUP,
    PASSWD,
    Tree,
    failing,
    left_alone,
    mendable,
    with_plain_m4,
)

pytestmark = [pytest.mark.root, pytest.mark.m4, pytest.mark.unshare]
CF, MC = "/etc/mail/sendmail.cf", "/etc/mail/sendmail.mc"
SUBMIT_CF, SUBMIT_MC = "/etc/mail/submit.cf", "/etc/mail/submit.mc"
DAEMON = "cf/generic-linux.mc"  # beside a submit.mc there is a daemon's
OPEN_RELAYS = {"cf/uucpproto.mc"}


@dataclass
class Row:
    """What became of one .mc: rules that failed before, what is left and why, and the .cf files made."""

    name: str
    objection: str = ""  # of cf.m4, to the .mc as it is shipped
    failed: int = 0
    left: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    made: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Corpus:
    """The host on which each is installed in turn, and what was found."""

    tree: Tree
    rows: dict[str, Row] = field(default_factory=dict)
    accepted: dict[str, str] = field(default_factory=dict)

    def install(self, name: str, *, with_mc: bool) -> Documents:
        """Put a .mc and the .cf that m4 makes of it in place, or that .cf alone."""
        is_submit = name.endswith("submit.mc")
        pairs = {(CF, MC): DAEMON if is_submit else name}
        if is_submit:
            pairs[SUBMIT_CF, SUBMIT_MC] = name
        for path in (CF, MC, SUBMIT_CF, SUBMIT_MC):
            (self.tree.root / path.lstrip("/")).unlink(missing_ok=True)
        for (cf, mc), each in pairs.items():
            if with_mc:
                self.tree.write(mc, text_of(each))
            self.tree.write(cf, self.cf_of(mc, each))
        return self.tree.documents()

    def cf_of(self, mc: str, name: str) -> bytes:
        """Return what hardend's own builder makes of a .mc; what m4 makes where that refuses it."""
        row = self.rows.setdefault(name, Row(name))
        try:
            return build_cf(mc, text_of(name), self.tree.host, self.tree.tools).cf
        except FormatError as error:
            row.objection = str(error)
            return plain_m4(text_of(name))[0]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    tree = Tree(tmp_path_factory.mktemp("corpus"))
    macros_in(tree.root)
    for path, content in {
        "/etc/os-release": "ID=debian\n",
        "/etc/passwd": PASSWD,
        "/etc/group": GROUP,
        "/etc/aliases": ALIASES,
        "/etc/mail/aliases": ALIASES,
        # What Debian's sendmail.mc includes.
        "/etc/mail/m4/dialup.m4": "",
        "/etc/mail/m4/provider.m4": "",
    }.items():
        tree.write(path, content)
    return Corpus(tree)


def path_of(name: str) -> tuple[str, str]:
    """Return where the .cf and the .mc of a name are installed."""
    return (SUBMIT_CF, SUBMIT_MC) if name.endswith("submit.mc") else (CF, MC)


def row_of(corpus: Corpus, name: str) -> Row:
    assert name in corpus.rows, "it was not hardened: see the test of that"
    return corpus.rows[name]


def test_the_corpus_is_what_the_package_ships() -> None:
    assert shipped() == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_mc_and_its_cf_are_rendered_as_they_were(name: str) -> None:
    mc, (cf, _) = text_of(name), plain_m4(text_of(name))
    assert Mc(mc, MC).render() == mc
    assert Cf(cf).render() == cf
    assert len(cf) > 10_000 and any(line.kind == "V" for line in Cf(cf).lines)


@pytest.mark.parametrize("name", NAMES)
def test_a_cf_alone_is_hardened_and_a_second_time_changes_nothing(corpus: Corpus, name: str) -> None:
    before = corpus.install(name, with_mc=False)
    failed = failing(before)
    assert failed
    path, _ = path_of(name)
    row = corpus.rows[name]
    auto = corpus.tree.plan(before, mendable(failed, only_auto=True))
    every = corpus.tree.plan(before, mendable(failed))
    row.made |= {"as it was": before.content[path], "auto": auto.after.content[path]}
    row.made["all"] = every.after.content[path]
    after = failing(every.after)
    left_alone(after, every.refused)
    again = corpus.tree.plan(every.after, mendable(after))
    assert again.contents == {}
    if name in OPEN_RELAYS:
        assert "relay-open" in {item.rule.id for item in failed}


@pytest.mark.parametrize("name", NAMES)
def test_a_mc_is_hardened_and_what_it_makes_then_meets_the_rules(corpus: Corpus, name: str) -> None:
    before = corpus.install(name, with_mc=True)
    row = corpus.rows[name]
    failed = failing(before)
    row.failed = len(failed)
    is_open = "relay-open" in {item.rule.id for item in failed}
    assert is_open == (name in OPEN_RELAYS)
    path, mc = path_of(name)
    for kind, rules in (("auto", mendable(failed, only_auto=True)), ("all", mendable(failed))):
        after, refused = hardened(corpus, name, before, rules)
        row.made[f"mc, {kind}"] = after.content[path]
        assert Mc(after.content[mc], mc).render() == after.content[mc]
    row.refused = refused
    still = failing(after)
    row.left = left_alone(still, refused)
    again, _ = hardened(corpus, name, after, mendable(still))
    assert again.content[mc] == after.content[mc]
    assert same_configuration(again.content[path], after.content[path])


def hardened(
    corpus: Corpus, name: str, before: Documents, rules: tuple[Rule, ...]
) -> tuple[Documents, dict[str, str]]:
    """Return the documents after the fixes, built by hardend; by m4 alone where cf.m4 objects to the .mc.

    m4 then says of the mended .mc what it said of it as it was, and nothing else.
    """
    if not corpus.rows[name].objection:
        made = corpus.tree.plan(before, rules)
        return made.after, dict(made.refused)
    after, refused, said = with_plain_m4(before, rules)
    _, known = plain_m4(before.content[MC])
    assert set(said.split("*** ")) <= set(known.split("*** "))
    return after, refused


def test_sendmail_accepts_what_was_made_wherever_it_accepted_what_was_there(corpus: Corpus) -> None:
    files = {f"{row.name}: {kind}": cf for row in corpus.rows.values() for kind, cf in row.made.items()}
    corpus.accepted = checked(files)
    assert len(files) == 5 * len(NAMES)
    assert {name: why for name, why in corpus.accepted.items() if why} == {}


def test_a_table_of_the_run(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{'file':28} fail  left (by hand)")
        for name in NAMES:
            row = row_of(corpus, name)
            print(f"{name:28} {row.failed:4}  {', '.join(row.left)}")
            for rule, why in row.refused.items():
                print(f"{'':34}{rule}: {why}")
            if row.objection:
                print(f"{'':34}cf.m4: {row.objection[:90]}")
    assert all(row.failed for name, row in corpus.rows.items())
    assert sum(not row.objection for row in corpus.rows.values()) >= 14
