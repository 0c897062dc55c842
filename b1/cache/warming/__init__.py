"""Warming: what will be asked for is loaded before it is, paced so that nobody who asks now notices.

Three kinds of work, the most urgent first: what the application calls critical, what one user is about to open, and what
was read often before a restart.
"""

from b1.cache.warming.conditions import Conditions
from b1.cache.warming.declared import Warmups
from b1.cache.warming.options import WarmingOptions, WarmingSnapshot
from b1.cache.warming.service import Warming
from b1.cache.warming.subjects import AnswerSubject, KeySubject, NotWarmed

__all__ = [
    "AnswerSubject",
    "Conditions",
    "KeySubject",
    "NotWarmed",
    "Warming",
    "WarmingOptions",
    "WarmingSnapshot",
    "Warmups",
]
