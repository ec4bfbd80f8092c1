"""What holds for all tests."""

# These need Celery and a redis-server beside the package: `python downstream/run.py celery-live` sets both up.
collect_ignore = ["celery"]


def pytest_report_header():
    return "not here: tests/celery (python downstream/run.py celery-live)"
