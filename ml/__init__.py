"""Arrays in, arrays out: no path, network, Spark, SQL or Airflow in here."""
