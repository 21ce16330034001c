"""What every job imports late, imported once for all: the fork server loads this module."""

import gc
import os

os.environ["OMP_NUM_THREADS"] = "1"

import diffusers.models.autoencoders.autoencoder_kl
import diffusers.models.unets.unet_2d_condition
import duckdb
import open_clip
import s3fs
import torch
import transformers.models.clip.modeling_clip

import jobs.clean
import jobs.curate
import jobs.generate
import jobs.report
import jobs.takedown
import jobs.train
import jobs.verify
import pipelines.report.card
import pipelines.report.page
import pipelines.revisions.clean
import pipelines.revisions.takedown
import pipelines.revisions.takedown_lists
import pipelines.steps.kinds
import pipelines.training.job
import pipelines.verify
import pipelines.workflows.curate
import pipelines.workflows.generate
from pipelines.rows.caption_facts import _identifier
from pipelines.steps.download.img2dataset_seams import load_img2dataset

__all__ = ["diffusers", "duckdb", "jobs", "open_clip", "pipelines", "s3fs", "transformers"]

torch.set_num_threads(1)
load_img2dataset()
_identifier()
gc.freeze()  # the collections of a child go over its own objects alone
