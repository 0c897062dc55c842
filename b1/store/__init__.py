"""Atomic verbs over memory or Redis; see `b1.store.base` for what each promises."""
