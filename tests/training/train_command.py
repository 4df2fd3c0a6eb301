"""``samdpo_train`` as a file, which torchrun starts."""

from samdpo.cli.train import main

main()
