"""Policies of tenants: what they say, how they are read, and what is counted against them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_mq.coordinator import Quotas, TenantPolicy, Tenants, load_tenants
from parrot_mq.errors import ConfigurationError, InvalidName, QuotaExceeded
from parrot_mq.messages import TaskAddress
from parrot_mq.types import SessionId, TaskId, TenantId


def _address(tenant: str, task: str) -> TaskAddress:
    return TaskAddress(TenantId(tenant), SessionId("s"), TaskId(task))


def _write(folder: Path, text: str) -> Path:
    path = folder / "tenants.toml"
    path.write_text(text)
    return path


def test_a_tenant_without_a_policy_has_the_default() -> None:
    tenants = Tenants({"acme": TenantPolicy(weight=4)}, TenantPolicy(weight=2))
    assert (tenants.policy("acme").weight, tenants.policy("other").weight) == (4, 2)


def test_tenants_share_a_cache_only_within_a_group() -> None:
    grouped = TenantPolicy(cache_group="x")
    tenants = Tenants({"a": grouped, "b": grouped, "c": TenantPolicy(cache_group="y")})
    assert tenants.salt("a") == tenants.salt("b")
    salts = {tenants.salt(name) for name in ("a", "c", "d", "x", "y")}
    assert len(salts) == 5, "a tenant named like a group is not in it"


def test_what_was_let_in_before_counts_and_is_not_refused() -> None:
    quotas = Quotas(Tenants(default=TenantPolicy(max_unfinished=1)))
    for task in "abc":
        quotas.admit(_address("t", task), is_accepted=True)
    assert quotas.num_unfinished("t") == 3
    with pytest.raises(QuotaExceeded):
        quotas.admit(_address("t", "d"))


def test_a_task_over_the_quota_is_refused_by_name_until_another_is_finished() -> None:
    quotas = Quotas(Tenants({"a": TenantPolicy(max_unfinished=2)}))
    for name in ("one", "two", "two"):
        quotas.admit(_address("a", name))
    with pytest.raises(QuotaExceeded, match="'a' has 2 unfinished tasks"):
        quotas.admit(_address("a", "three"))
    quotas.admit(_address("b", "three"))
    quotas.leave(_address("a", "one"))
    quotas.leave(_address("a", "one"))
    quotas.admit(_address("a", "three"))
    assert quotas.num_unfinished("a") == 2


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("ab"), st.integers(0, 5))))
def test_counted_is_what_came_and_has_not_left(steps: list[tuple[bool, str, int]]) -> None:
    quotas = Quotas(Tenants(default=TenantPolicy(max_unfinished=3)))
    model: dict[str, set[int]] = {"a": set(), "b": set()}
    for is_coming, tenant, number in steps:
        address = _address(tenant, str(number))
        if not is_coming:
            quotas.leave(address)
            model[tenant].discard(number)
        elif number in model[tenant] or len(model[tenant]) < 3:
            quotas.admit(address)
            model[tenant].add(number)
        else:
            with pytest.raises(QuotaExceeded):
                quotas.admit(address)
        assert {name: quotas.num_unfinished(name) for name in model} == {n: len(k) for n, k in model.items()}


def test_policies_are_read_from_a_file(tmp_path: Path) -> None:
    text = '[default]\nmax_unfinished = 7\n[tenants.acme]\nweight = 4\nmax_running = 2\ncache_group = "company"\n'
    tenants = load_tenants(_write(tmp_path, text))
    assert tenants.policy("acme") == TenantPolicy(weight=4, max_running=2, cache_group="company")
    assert tenants.policy("other") == TenantPolicy(max_unfinished=7)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[default", "cannot read the tenants"),
        ("[quota]", "unknown quota; expected `default` and `tenants.<name>`"),
        ("tenants = 1", "one table for each tenant"),
        ("[tenants.a]\nwait = 1", r"tenants\.a: .*wait"),
        ("[tenants.a]\nweight = 'much'", r"tenants\.a: .*weight"),
        ("[tenants.a]\nweight = 0", r"tenants\.a: .*above 0, got 0"),
        ("[tenants.a]\nweight = inf", r"tenants\.a: .*above 0, got inf"),
        ("[default]\nmax_unfinished = 0", r"default: .*at least 1, got 0"),
        ("[default]\nmax_running = -1", r"default: .*negative, got -1"),
        ("[default]\ncache_group = 'a b'", r"default: .*cache group name 'a b'"),
    ],
)
def test_a_file_that_says_what_cannot_be_is_refused_with_the_place(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigurationError, match=expected):
        load_tenants(_write(tmp_path, text))


def test_a_missing_file_and_a_name_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read"):
        load_tenants(tmp_path / "none.toml")
    with pytest.raises(InvalidName):
        Tenants({"a.b": TenantPolicy()})
