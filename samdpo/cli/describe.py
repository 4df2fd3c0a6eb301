"""``samdpo_describe DATASET``: have a language model write the descriptions of a dataset's structures."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from samdpo.cli.common import parser, run_command
from samdpo.errors import ConfigurationError

log = logging.getLogger(__name__)


def arguments() -> argparse.ArgumentParser:
    """The command's arguments."""
    command = parser(
        "Have a language model describe the structures of a dataset, for their prompts. Only their names and the "
        "modality are sent. The texts go to descriptions.json in the dataset's preprocessed folder, where you may edit "
        "them.",
        "The key is read from OPENAI_API_KEY and kept nowhere. A server on this machine needs none.",
    )
    command.add_argument("dataset", help="dataset id or name, for example 3 or Dataset003_Liver")
    command.add_argument("--model", default=None, metavar="NAME", help="of the endpoint; default: samdpo_llm_model")
    command.add_argument(
        "--base_url", default=None, metavar="URL",
        help="OpenAI-compatible endpoint, like http://127.0.0.1:8000/v1; default: OPENAI_BASE_URL, else OpenAI's",
    )
    command.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="of one request")
    command.add_argument("--overwrite", action="store_true", help="describe those again that are described")
    return command


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``samdpo_describe``."""
    args = arguments().parse_args(argv)
    run_command(lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    if args.timeout <= 0:
        raise ConfigurationError(f"--timeout is {args.timeout:g}; expected more than 0 seconds.")
    from samdpo.dataset.raw_dataset import RawDataset
    from samdpo.paths import preprocessed_root
    from samdpo.prompting.descriptions import description_files
    from samdpo.prompting.language_model import LanguageModel, structures_to_describe, write_missing

    raw = RawDataset.open(args.dataset)
    name, dataset = raw.name, raw.meta
    preprocessed_root(writable=True)  # says what to type where it is not set
    files, number = description_files(name), raw.number
    own = [structure for structure in dataset.structures if structure not in structures_to_describe(dataset)]
    if own:
        log.info("Described in dataset.json, which wins: %s", ", ".join(own))
    model = LanguageModel(args.model, args.base_url, args.timeout)
    log.info("%s at %s is asked; it is sent the structures' names and the modality.", model.model, model.url)
    written, failed = write_missing(dataset, files, model, args.overwrite)
    for structure, reason in failed.items():
        log.warning("%s: %s Write its description into %s yourself.", structure, reason, files[0])
    log.info("%d of %d descriptions were written, %d were there already: %s", len(written), len(dataset.structures),
             len(dataset.structures) - len(own) - len(written) - len(failed), files[0])
    log.info("Read them, and correct what is wrong. Next: samdpo_plan_and_preprocess -d %d, or, where it is "
             "planned: samdpo_prompt %d 0", number, number)


if __name__ == "__main__":
    main()
