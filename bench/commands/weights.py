"""The `weights` commands: fetch what the metrics need, and list what is here. Whatever is heavy is imported inside the command."""

from typing import Annotated

import typer

weights = typer.Typer(help="Weights that the metrics need.", no_args_is_help=True)


@weights.command("get")
def get(name: Annotated[str, typer.Argument(help="Which weights, for example i3d.")]) -> None:
    """Fetch weights, check their hash, and convert them into the user's cache."""
    from bench.metrics.weights import table

    typer.echo(table.get(name, lambda what: typer.echo(what, err=True)))


@weights.command("list")
def list_known() -> None:
    """List known weights and whether they are here."""
    from bench.metrics.weights import table

    for status in table.status():
        typer.echo(f"{status.name:<8} {status.state:<8} {status.path}  {status.description}{': ' + status.detail if status.detail else ''}")
