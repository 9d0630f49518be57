"""Whether the Hub answers, asked once: without a network its library tries file after file, for minutes."""

from pathlib import Path

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

# One of these is in the cache of whoever has read a checkpoint before.
KEPT = ("config.json", "tokenizer_config.json", "tokenizer.json")


def check_reachable(name: str, revision: str | None, files: str) -> None:
    """Refuse a name that is no folder here, is not in the cache, and cannot be asked for at the Hub.

    files: what will be looked for, in words. What the Hub says of the name is left to whoever reads it.

    Raises:
        ValueError: nobody answers, in one line.
    """
    if Path(name).exists() or any(isinstance(try_to_load_from_cache(name, f, revision=revision), str) for f in KEPT):
        return
    try:
        get_hf_file_metadata(hf_hub_url(name, KEPT[0], revision=revision))
    except HfHubHTTPError:
        pass
    except Exception as error:  # of the transport, whose kinds change with the library
        raise ValueError(
            f"{name!r} is no folder here and cannot be had from the Hub: looked for {files} in the cache "
            f"{constants.HF_HUB_CACHE} and at the Hub, revision {revision or 'main'}, which cannot be reached "
            f"({str(error).strip().partition(chr(10))[0]})"
        ) from None
