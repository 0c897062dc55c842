"""Caching: byte-bounded, one load per key, and never a value that was invalidated while it loaded."""

from b1.cache.cache import Cache
from b1.cache.checking import Checker, CheckOptions, Drift
from b1.cache.counts import CacheSnapshot, NamespaceCount
from b1.cache.decorating import memoized
from b1.cache.intents.intents import Intents
from b1.cache.intents.options import IntentOptions, IntentsSnapshot
from b1.cache.intents.rules import Cascade, Rule, Rules
from b1.cache.intents.writes import Riding, Write
from b1.cache.invalidating import Invalidation
from b1.cache.l1.table import L1, Entry
from b1.cache.options import CacheOptions, LoadOptions, Residence
from b1.cache.warming import Warming, WarmingOptions, WarmingSnapshot, Warmups

__all__ = [
    "L1",
    "Cache",
    "CacheOptions",
    "CacheSnapshot",
    "Cascade",
    "CheckOptions",
    "Checker",
    "Drift",
    "Entry",
    "IntentOptions",
    "Intents",
    "IntentsSnapshot",
    "Invalidation",
    "LoadOptions",
    "NamespaceCount",
    "Residence",
    "Riding",
    "Rule",
    "Rules",
    "Warming",
    "WarmingOptions",
    "WarmingSnapshot",
    "Warmups",
    "Write",
    "memoized",
]
