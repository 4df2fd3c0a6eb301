"""``samdpo_predict -i IN -o OUT``: segment a folder of images without any prompt from a person."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from samdpo.cli.common import add_dask, parser, run_command


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``samdpo_predict``."""
    arguments = parser(
        "Segment every image of a folder. Without -d or -m the one trained model there is, the latest stage, and the "
        "folds that are trained are used.",
    )
    arguments.add_argument("-i", type=Path, required=True, help="folder with images, or one image; a folder with a "
                           "DICOM series, or with a sub-folder for each series")
    arguments.add_argument("-o", type=Path, required=True, help="folder for masks, reports and probabilities")
    arguments.add_argument("-d", default=None, help="dataset id or name")
    arguments.add_argument("-m", type=Path, default=None, help="model folder; needs no environment variable")
    arguments.add_argument("-tr", default=None, help="trainer; of a class of your own with another architecture its "
                           "full name, package.module:Class: no file of a model folder is taken at its word for that")
    arguments.add_argument("-p", default=None, help="plan")
    arguments.add_argument("-c", default=None, help="stage, for example finetune")
    arguments.add_argument("-f", nargs="+", default=None, help="folds to average; default: those trained")
    arguments.add_argument("-chk", default="checkpoint_final", help="checkpoint_final or checkpoint_best")
    arguments.add_argument("-device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    arguments.add_argument("--save_probabilities", action="store_true", help="also write case.npz, as nnU-Net does")
    arguments.add_argument("--continue_prediction", action="store_true", help="skip cases that have a mask of "
                           "this model and image already")
    arguments.add_argument("--disable_tta", action="store_true", help="do not average with the mirror image")
    arguments.add_argument("--dicom_seg", action="store_true", help="for DICOM: also write case.dcm, a DICOM SEG")
    arguments.add_argument("-num_parts", type=int, default=1, metavar="N",
                           help="divide the cases into N parts and predict one; each may have a GPU of its own")
    arguments.add_argument("-part_id", type=int, default=0, metavar="K", help="which part: 0 to N - 1")
    add_dask(arguments)
    args = arguments.parse_args(argv)

    def body() -> None:
        from samdpo.api import predict

        predict(args.i, args.o, args.m, dataset=args.d, trainer=args.tr, plans_name=args.p, stage=args.c,
                folds=args.f, checkpoint=args.chk, device=args.device, mirror=not args.disable_tta,
                save_probabilities=args.save_probabilities, continue_prediction=args.continue_prediction,
                dicom_seg=args.dicom_seg, num_parts=args.num_parts, part_id=args.part_id, dask=args.dask)

    run_command(body, go_on="type the same command with --continue_prediction to go on")
