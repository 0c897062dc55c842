"""Rules: what a write makes stale, and what is found wrong before the first write."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from b1.cache.intents.rules import TAGS_LIMIT, Cascade, Rule, Rules, Stale
from b1.cache.names import key_tag, organization_tag, prefix_tag, tags_of
from b1.errors import ConfigurationError


def hard(rules: Rules, event: str, **parameters: Any) -> set[str]:
    stale = rules.tags_for(event, parameters)
    assert stale.soft == ()
    return set(stale.hard)


class TestTemplates:
    def test_a_key_is_filled_in(self) -> None:
        rules = Rules(Rule("user.updated", keys=("cache:user:{{id}}",)))
        assert hard(rules, "user.updated", id=17) == {key_tag("cache:user:17")}

    def test_a_write_that_names_its_organisation_reaches_the_organisations_keys_and_nobodys(self) -> None:
        rules = Rules(Rule("user.updated", keys=("cache:user:{{id}}",)))
        expected = {key_tag("cache:user:17"), key_tag("cache:user:17", "5")}
        assert hard(rules, "user.updated", id="17", organization=5) == expected

    def test_a_star_at_the_end_is_a_prefix(self) -> None:
        rules = Rules(Rule("user.updated", keys=("cache:{{id}}:*",)))
        assert hard(rules, "user.updated", id=17) == {prefix_tag("cache:17")}

    def test_a_star_in_the_middle_is_the_prefix_before_it(self) -> None:
        rules = Rules(Rule("user.updated", keys=("report:*:{{id}}:*",)))
        assert hard(rules, "user.updated", id=17, organization="o") == {prefix_tag("report"), prefix_tag("report", "o")}

    def test_a_prefix_of_more_parts_than_an_entry_has_is_cut(self) -> None:
        rules = Rules(Rule("e", keys=("a:b:c:{{id}}:*",)))
        assert hard(rules, "e", id=17) == {prefix_tag("a:b:c")}

    def test_tags_and_the_whole_organisation(self) -> None:
        rules = Rules(Rule("ledger.posted", tags=("ledger:{{organization}}",), organization=True))
        assert hard(rules, "ledger.posted", organization=3) == {"ledger:3", organization_tag("3")}

    def test_several_values_are_several_tags(self) -> None:
        rules = Rules(Rule("e", keys=("a:{{x}}:{{y}}",)))
        expected = {key_tag(f"a:{x}:{y}") for x, y in itertools.product("12", "34")}
        assert hard(rules, "e", x=[1, 2, 2], y=("3", "4")) == expected

    def test_very_many_values_are_the_prefix_that_they_have_in_common(self) -> None:
        rules = Rules(Rule("e", keys=("cache:entity:{{id}}",)))
        expected = {prefix_tag("cache:entity"), prefix_tag("cache:entity", "o")}
        assert hard(rules, "e", id=range(5000), organization="o") == expected

    def test_a_prefix_never_stands_for_the_key_that_is_equal_to_it(self) -> None:
        rules = Rules(Rule("e", keys=("cache:all",)))
        tags = hard(rules, "e", organization=[str(number) for number in range(200)])
        assert prefix_tag("cache", "7") in tags
        assert set(tags_of("cache:all", (), "7")) & tags

    @pytest.mark.parametrize(
        ("rule", "parameters", "words"),
        [
            (Rule("e", tags=("t:{{id}}",)), {"id": list(range(999))}, "more than 256"),
            (Rule("e", keys=("{{id}}",)), {"id": list(range(999))}, "no prefix in common"),
            (Rule("e", keys=("a:{{id}}",)), {}, "without id"),
            (Rule("e", keys=("a:{{id}}",)), {"id": ""}, "expected 1 to 256"),
            (Rule("e", keys=("a:{{id}}",)), {"id": "*"}, "without a star"),
            (Rule("e", keys=("a:{{id}}",)), {"id": []}, "empty list"),
            (Rule("e", keys=("a:{{id}}",)), {"id": "x\ny"}, "control characters"),
        ],
    )
    def test_a_write_that_says_too_little_or_nonsense_is_refused(
        self, rule: Rule, parameters: dict[str, Any], words: str
    ) -> None:
        with pytest.raises(ValueError, match=words):
            Rules(rule).tags_for("e", parameters)

    @pytest.mark.parametrize("value", [True, 1.5, None, [[1]], b"x"])
    def test_a_value_that_is_neither_text_nor_a_number_is_refused(self, value: Any) -> None:
        with pytest.raises(TypeError):
            Rules(Rule("e", keys=("a:{{id}}",))).tags_for("e", {"id": value})

    def test_a_misspelt_event_names_the_nearest(self) -> None:
        with pytest.raises(ValueError, match=r"no rule is about 'entity.upated'; did you mean 'entity.updated'"):
            Rules(Rule("entity.updated", tags=("a",))).tags_for("entity.upated", {})

    @pytest.mark.parametrize(
        "rule",
        [
            Rule("e", keys=("rep*:x",)), Rule("e", keys=("*:x",)), Rule("e", keys=("a:**",)), Rule("e", keys=("*",)),
            Rule("e", keys=("",)), Rule("e", keys=("a::b",)), Rule("e", keys=("a:{id}",)), Rule("e", keys=("a:{{}}",)),
            Rule("e", keys=("x" * 300,)), Rule("e", tags=("a:*",)), Rule("", keys=("a",)),
        ],
    )  # fmt: skip
    def test_a_template_that_is_none_is_refused_at_the_start(self, rule: Rule) -> None:
        with pytest.raises(ConfigurationError):
            Rules(rule)


class TestCascades:
    GRAPH = (
        Rule("organization.updated", keys=("organization:{{organization}}",), then=("contacts", "opportunities")),
        Rule("contacts", keys=("contact:*",), then=("reports",)),
        Rule("opportunities", tags=("opportunities:{{organization}}",), then=("reports",)),
        Rule("reports", keys=("report:*",), soft=True),
    )

    def test_a_graph_is_walked_to_its_end_each_thing_once(self) -> None:
        stale = Rules(*self.GRAPH).tags_for("organization.updated", {"organization": 1})
        assert set(stale.hard) == {
            key_tag("organization:1"), key_tag("organization:1", "1"), prefix_tag("contact"), prefix_tag("contact", "1"),
            "opportunities:1",
        }  # fmt: skip
        assert set(stale.soft) == {prefix_tag("report"), prefix_tag("report", "1")}

    def test_an_event_in_the_middle_reaches_what_is_below_it_alone(self) -> None:
        assert Rules(*self.GRAPH).tags_for("reports", {}) == Stale((), (prefix_tag("report"),))

    def test_the_order_of_rules_does_not_matter(self) -> None:
        answers = set()
        for order in itertools.permutations(self.GRAPH):
            stale = Rules(*order).tags_for("organization.updated", {"organization": 1})
            answers.add((frozenset(stale.hard), frozenset(stale.soft)))
        assert len(answers) == 1

    def test_what_is_hard_by_one_way_and_soft_by_another_is_hard(self) -> None:
        rules = Rules(Rule("e", tags=("t",)), Rule("e", tags=("t", "u"), soft=True))
        assert rules.tags_for("e", {}) == Stale(("t",), ("u",))

    def test_all_that_follows_from_a_soft_rule_is_soft(self) -> None:
        rules = Rules(Rule("e", then=("f",), soft=True), Rule("f", tags=("t",)))
        assert rules.tags_for("e", {}) == Stale((), ("t",))
        assert rules.tags_for("f", {}) == Stale(("t",), ())

    def test_a_cascade_may_rename_parameters_over_several_steps(self) -> None:
        rules = Rules(
            Rule("person.merged", then=(Cascade("contact", {"id": "person"}),)),
            Rule("contact", keys=("contact:{{id}}",), then=(Cascade("deal", {"owner": "id"}),)),
            Rule("deal", tags=("deals-of:{{owner}}",)),
        )
        assert rules.parameters_of("person.merged") == {"person"}
        assert hard(rules, "person.merged", person=7) == {key_tag("contact:7"), "deals-of:7"}

    @pytest.mark.parametrize("length", [1, 2, 5])
    def test_a_circle_is_refused_at_the_start_and_shown(self, length: int) -> None:
        circle = [Rule(f"n{step}", then=(f"n{(step + 1) % length}",)) for step in range(length)]
        with pytest.raises(ConfigurationError, match="n0 → ") as refused:
            Rules(*circle)
        assert "never ends" in str(refused.value)

    def test_a_step_into_nothing_is_refused_at_the_start(self) -> None:
        with pytest.raises(ConfigurationError, match="about which there is no rule"):
            Rules(Rule("e", then=("nowhere",)))

    def test_a_graph_that_is_too_wide_for_one_write_is_refused_at_the_start(self) -> None:
        with pytest.raises(ConfigurationError, match="200 templates follow"):
            Rules(Rule("e", tags=tuple(f"t{number}" for number in range(200))))

    def test_a_cascade_cannot_change_whose_keys_they_are(self) -> None:
        with pytest.raises(ConfigurationError, match="another organization"):
            Rules(Rule("e", then=(Cascade("f", {"organization": "id"}),)), Rule("f", keys=("a",)))


class TestExactPatterns:
    RULES = Rules(
        Rule("e", keys=("report:*:{{id}}:*", "sheet:{{kind}}:*:end", "a:b:c:{{id}}:*")),
        Rule("f", keys=("report:*:{{other}}:*",)),
        exact=True,
    )

    def test_an_entry_carries_the_tags_of_the_templates_that_it_matches(self) -> None:
        stale = set(self.RULES.tags_for("e", {"id": 17, "kind": "x"}).hard)
        reached = ("report:sum:17:2026", "report:sum:17:2026:q1", "sheet:x:1:end", "a:b:c:17:d")
        spared = (
            "report:sum:18:2026",
            "report:17:sum:2026",
            "report:sum:17",
            "sheet:y:1:end",
            "sheet:x:1:2:end",
            "a:b:c:17",
        )
        assert [bool(stale & set(self.RULES.tags_of(key))) for key in reached] == [True] * 4
        assert [bool(stale & set(self.RULES.tags_of(key))) for key in spared] == [False] * 6

    def test_two_events_with_the_same_template_share_its_tag(self) -> None:
        assert len(self.RULES.tags_of("report:sum:17:2026")) == 1
        assert set(self.RULES.tags_for("f", {"other": 17}).hard) == set(self.RULES.tags_of("report:sum:17:2026"))

    def test_organisations_do_not_meet(self) -> None:
        stale = set(self.RULES.tags_for("f", {"other": 17, "organization": "1"}).hard)
        key = "report:sum:17:x"
        assert [bool(stale & set(self.RULES.tags_of(key, one))) for one in (None, "1", "2")] == [True, True, False]

    def test_without_stars_nothing_is_carried(self) -> None:
        assert Rules(Rule("e", keys=("a:{{id}}", "b:*")), exact=True).tags_of("a:1") == ()

    def test_no_write_is_ever_missed_whatever_the_keys_and_values_are(self) -> None:
        """Compare with the obvious: the template as a text, matched against the key."""
        chance = random.Random(11)
        texts = ("1", "x", "sum", "1:2", "a.b", "ü")
        checked = 0
        for exact in (False, True):
            for _ in range(1000):
                parts = [
                    "r",
                    *(chance.choice(["*", "{{id}}", "sum", "u{{id}}"]) for _ in range(chance.randrange(1, 5))),
                ]
                rules = Rules(Rule("e", keys=(":".join(parts),)), exact=exact)
                value, organization = chance.choice(texts), chance.choice([None, "7"])
                key = ":".join(
                    part.replace("{{id}}", value) if part != "*" else chance.choice(["s", "17"]) for part in parts
                ) + (":more" if parts[-1] == "*" and chance.random() < 0.5 else "")
                given = {"id": value} if "{{id}}" in ":".join(parts) else {}
                stale = rules.tags_for(
                    "e", {**given, **({} if organization is None else {"organization": organization})}
                )
                carried = {*tags_of(key, (), organization), *rules.tags_of(key, organization)}
                assert carried & set(stale.hard), (parts, key, value)
                checked += 1
        assert checked == 2000


def test_no_write_invalidates_more_tags_than_the_limit() -> None:
    rules = Rules(Rule("e", keys=tuple(f"k{number}:{{{{id}}}}" for number in range(20))))
    for count in (1, 5, 6, 7, 50, 5000):
        try:
            stale = rules.tags_for("e", {"id": range(count), "organization": "o"})
        except ValueError:
            continue
        assert len(stale.hard) <= TAGS_LIMIT
