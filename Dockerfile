# One exported model over HTTP, without torch: docs/how-to/serve.md.
#   docker build -t tinydistilbert-serve .
#   docker run -p 127.0.0.1:8080:8080 -v "$PWD/model:/model:ro" tinydistilbert-serve
# It was not built where this repository is tested, for there is no Docker there: tests/unit/test_serve_process.py runs its
# pip step in a fresh environment instead, and starts the server there.
FROM python:3.13-slim
COPY pyproject.toml README.md LICENSE constraints.txt /src/
COPY src /src/src
RUN pip install --no-cache-dir -c /src/constraints.txt '/src[serve]' && rm -r /src
USER nobody
EXPOSE 8080
HEALTHCHECK CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8080/health', timeout=2)"]
ENTRYPOINT ["tinydistilbert", "serve", "/model", "--host", "0.0.0.0"]
