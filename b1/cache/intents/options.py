"""What intents are told, and what they say about themselves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class IntentOptions:
    """Options of `Intents`.

    Attributes:
        instance: who we are, in the rows.
        wait_s: how long the end of a write waits until all processes know what it made stale.
        replay_after_s: a row that is older was left by a worker that died.
        replay_every_s: pause between two looks for such rows.
        taken_s: how long who took a row over may take for it.
        batch: rows that one statement takes or deletes.
        linger_s: how long deletions are gathered.
        purge_s: how long a row is kept for a CDN that does not answer.
        retry_s: pause after Postgres refused a look or a deletion.
        waiting_limit: rows that wait to be deleted; further ones are left to the replay.
        flush_s: how long a stop waits for what is under way.
    """

    instance: str = "b1"
    wait_s: float = 1.0
    replay_after_s: float = 10.0
    replay_every_s: float = 10.0
    taken_s: float = 30.0
    batch: int = 500
    linger_s: float = 0.25
    purge_s: float = 5.0
    retry_s: float = 1.0
    waiting_limit: int = 10_000
    flush_s: float = 2.0


@dataclass(frozen=True, slots=True)
class IntentsSnapshot:
    """What became of intents in this process.

    Attributes:
        is_durable: rows are written; False without Postgres or its table, None before the first write.
        recorded: rows written by transactions, whatever became of these.
        applied: invalidations after a commit.
        replayed: rows of other workers that were applied here.
        failed: applications that did not reach the shared store; their rows are kept and tried again.
        unfinished: applications under way.
        undeleted: rows that were applied and wait for their deletion.
        replays: looks for rows that somebody left.
        errors: looks and deletions that Postgres refused.
    """

    is_durable: bool | None
    recorded: int
    applied: int
    replayed: int
    failed: int
    unfinished: int
    undeleted: int
    replays: int
    errors: int
