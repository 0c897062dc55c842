"""The commands. Each verb is a module with `add_arguments(parser)` and `run(arguments) -> exit code`.

A verb's module is imported when it is asked for: `b1 plan` on a small box must not pay for what `b1 dev` needs.
"""
