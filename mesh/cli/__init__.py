"""The command line: `icto`. A module for each group of commands."""

import typer

from mesh.cli import call, demo, identity, keep, launches, operate, platform, policy, up

app = typer.Typer(
    name="icto",
    help="ICTO mesh: a token-launch platform as a mesh of gRPC services behind Envoy.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
up.register(app)
demo.register(app)
operate.register(app)
platform.register(app)
policy.register(app)
keep.register(app)
identity.register(app)
launches.register(app)
call.register(app)
