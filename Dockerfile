FROM python:3.11-slim

WORKDIR /nas
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY nas nas
COPY search_spaces search_spaces
COPY controllers controllers
COPY examples examples
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
    -c constraints.txt '.[postgres]' 'ray[default]'

ENTRYPOINT ["nas"]
