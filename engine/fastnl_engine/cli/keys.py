"""keys: what an engine and its clients need to know each other over TCP."""

from __future__ import annotations

import click

from fastnl_engine.cli import output
from fastnl_engine.cli.options import Settings, pass_settings, prints

ADVICE = """\
{secret}: the secret key; it stays on this machine
{public}: the public key, for the other side

  {key}

If it is the engine's, write into its engine.toml, and restart it

  tcp = "tcp://0.0.0.0:7777"
  curve_secret = "{secret}"

and tell its clients where it is and which key it has:

  export FASTNL_ENDPOINT=tcp://HOST:7777
  export FASTNL_SERVER_KEY='{key}'

If it is a client's, let it in with a role in the engine's engine.toml, and reload the engine (SIGHUP):

  [roles]
  operator = ["key:{key}"]

and tell the client which key is its own:

  export FASTNL_KEY={secret}"""


@click.command()
@click.argument("name", type=click.Path())
@click.option("--force", is_flag=True, help="Replace files that are there; whoever relied on them is locked out.")
@prints
@pass_settings
def keys(settings: Settings, name: str, force: bool) -> None:
    """Make a pair of keys for TCP, NAME.key and NAME.pub; tell what to write where.

    The engine needs a pair of its own, and so does each client.
    """
    from fastnl_engine.curve import make

    try:
        key, secret, public = make(name, force=force)
    except FileExistsError as e:
        raise click.UsageError(f"{e}; --force replaces it") from None
    except OSError as e:
        raise click.UsageError(f"{name}: {e.strerror or e}") from None
    if settings.json:
        output.as_json({"key": key, "secret_file": str(secret), "public_file": str(public)})
    else:
        click.echo(ADVICE.format(key=key, secret=secret, public=public))
