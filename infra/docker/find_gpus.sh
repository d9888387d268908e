#!/bin/sh
# Tells a Spark worker which GPUs it has, in the JSON that Spark asks of a discovery script.
nvidia-smi --query-gpu=index --format=csv,noheader | awk 'BEGIN { printf "{\"name\": \"gpu\", \"addresses\": [" }
{ printf "%s\"%s\"", (NR > 1 ? ", " : ""), $1 } END { print "]}" }'
