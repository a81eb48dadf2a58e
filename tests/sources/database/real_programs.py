"""Programs as they are: each makes its own tables in its own way, and then does its own work on them.

    python real_programs.py PROGRAM STEP FOLDER

A step prints, as JSON, what the program's own queries answered. Nothing here knows of hints.
Whoever imports this has `run`, which does that.
"""

# ruff: noqa: PLC0415 - only the program that is asked for is loaded.
from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

BUSY_S = 20
FIXED = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)


def with_django(folder: Path) -> None:
    """Set Django up with its own apps: accounts, sessions, the admin's log."""
    import django
    from django.conf import settings

    # A transaction that begins with reading fails where another one writes meanwhile, whoever does.
    options = {"transaction_mode": "IMMEDIATE", "timeout": BUSY_S}
    database = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(folder / "app.db"),
        "OPTIONS": options,
    }
    settings.configure(
        DATABASES={"default": database},
        INSTALLED_APPS=[
            f"django.contrib.{name}"
            for name in ("contenttypes", "auth", "sessions", "messages", "admin", "sites")
        ],
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
        TEMPLATES=[],
        USE_TZ=True,
        SECRET_KEY="not secret",
        SITE_ID=1,
    )
    django.setup()


def make_django(folder: Path) -> Any:
    from django.core.management import call_command

    with_django(folder)
    call_command("migrate", verbosity=0)
    return None


def use_django(folder: Path) -> Any:
    with_django(folder)
    from django.contrib.admin.models import CHANGE, LogEntry
    from django.contrib.auth.models import Group, Permission, User
    from django.contrib.contenttypes.models import ContentType
    from django.contrib.sessions.models import Session
    from django.db import IntegrityError, transaction

    users = [User.objects.create_user(f"user{n}", f"u{n}@example.org", "x") for n in range(5)]
    group, made = Group.objects.get_or_create(name="editors")
    again = Group.objects.update_or_create(name="editors", defaults={"name": "writers"})[1]
    group.refresh_from_db()
    group.permissions.set(Permission.objects.filter(content_type__app_label="auth")[:3])
    for user in users[:3]:
        user.groups.add(group)
    User.objects.bulk_create([User(username="user0"), User(username="new")], ignore_conflicts=True)
    User.objects.bulk_create(
        [User(username="user1", email="changed@example.org")],
        update_conflicts=True,
        unique_fields=["username"],
        update_fields=["email"],
    )
    changed = User.objects.filter(username__gt="user2").update(is_staff=True)
    try:
        with transaction.atomic():
            User.objects.create(username="undone")
            with transaction.atomic():
                User.objects.create(username="user0")
    except IntegrityError:
        pass
    kind = ContentType.objects.get_for_model(User)
    LogEntry.objects.create(
        user=users[0],
        content_type=kind,
        object_id="1",
        action_flag=CHANGE,
        action_time=FIXED,
        change_message="x",
    )
    Session.objects.create(session_key="k" * 32, session_data="data", expire_date=FIXED)
    Session.objects.filter(session_key="k" * 32).update(session_data="other")
    users[3].delete()
    deleted = User.objects.filter(username="user1").delete()
    return [
        made,
        again,
        changed,
        deleted,
        list(User.objects.order_by("id").values_list("id", "username", "email", "is_staff")),
        list(User.groups.through.objects.order_by("id").values_list("id", "user_id", "group_id")),
        list(Group.objects.get().permissions.order_by("id").values_list("codename", flat=True)),
        LogEntry.objects.count(),
        list(Session.objects.values_list("session_key", "session_data")),
    ]


def alter_django(folder: Path) -> Any:
    """Change columns as migrations do: Django copies the table, which drops all triggers on it."""
    with_django(folder)
    from django.db import connection, migrations, models
    from django.db.migrations.loader import MigrationLoader

    state = MigrationLoader(connection).project_state()
    for operation in (
        migrations.AlterField("user", "first_name", models.CharField(max_length=300, default="?")),
        migrations.AddField("user", "extra", models.IntegerField(default=7)),
        migrations.RenameField("user", "extra", "further"),
        migrations.RemoveField("user", "further"),
    ):
        after = state.clone()
        operation.state_forwards("auth", after)
        with connection.schema_editor() as editor:
            operation.database_forwards("auth", editor, state, after)
        state = after
    return None


def save_django(folder: Path) -> Any:
    with_django(folder)
    from django.contrib.auth.models import User

    user = User.objects.get(username="user0")
    user.first_name = "Zoë"
    user.save()
    return [user.pk, User.objects.filter(first_name="Zoë").count()]


def newer_version() -> tuple[Any, Any]:
    """Return a migration of a newer version of the app, and the state of the models that it begins with.

    It fills a column whose definition says nothing of that, gives another one a value for each row, and makes a table.
    """
    from django.db import connection, migrations, models
    from django.db.migrations.loader import MigrationLoader

    def count_letters(apps: Any, _editor: Any) -> None:
        for user in apps.get_model("auth", "User").objects.all():
            user.letters = len(user.username)
            user.save()

    user = models.ForeignKey("auth.User", on_delete=models.CASCADE)
    migration = migrations.Migration("0013_newer", "auth")
    migration.operations = [
        migrations.AddField("user", "mood", models.CharField(max_length=20, default="calm")),
        migrations.AddField("user", "letters", models.IntegerField(null=True)),
        migrations.RunPython(count_letters),
        migrations.CreateModel("Badge", [("id", models.AutoField(primary_key=True)), ("user", user)]),
    ]
    return migration, MigrationLoader(connection).project_state()


def grow_django(folder: Path) -> Any:
    """Migrate to the newer version as `migrate` does."""
    with_django(folder)
    from django.db import connection
    from django.db.migrations.recorder import MigrationRecorder

    migration, state = newer_version()
    with connection.schema_editor(atomic=migration.atomic) as editor:
        migration.apply(state, editor)
    MigrationRecorder(connection).record_applied(migration.app_label, migration.name)
    return None


def enjoy_django(folder: Path) -> Any:
    """Be the newer version at work."""
    with_django(folder)
    migration, state = newer_version()
    models = migration.mutate_state(state).apps
    user = models.get_model("auth", "User").objects.get(username="user0")
    user.mood, user.letters = "merry", 99
    user.save()
    models.get_model("auth", "Badge").objects.create(user=user)
    return None


def huey_of(folder: Path) -> Any:
    """Return a task queue; it keeps its tasks, schedule and results in a file."""
    import huey

    return huey.SqliteHuey("app", filename=str(folder / "app.db"), utc=True)


def make_huey(folder: Path) -> Any:
    huey_of(folder)
    return None


def use_huey(folder: Path) -> Any:
    queue = huey_of(folder)

    @queue.task(priority=5)
    def add(a: int, b: int) -> int:
        return a + b

    results = [add(n, n) for n in range(6)]
    later = add.schedule((1, 2), eta=FIXED.replace(tzinfo=None))
    results[2].revoke()
    for _ in range(4):
        queue.execute(queue.dequeue())
    queue.add_schedule(later.task)
    queue.put("note", {"x": 1})
    queue.put("note", {"x": 2})
    queue.put_if_empty("note", 3)
    due = queue.read_schedule(FIXED.replace(tzinfo=None))
    return [
        [result.get() for result in results[:2]],
        queue.get("note"),
        queue.pending_count(),
        queue.result_count(),
        len(due),
        later.id != results[0].id,
    ]


def cache_of(folder: Path) -> Any:
    """Return a cache; triggers of its own count its entries."""
    import diskcache

    return diskcache.Cache(str(folder), disk_min_file_size=2**20)


def make_diskcache(folder: Path) -> Any:
    cache_of(folder).close()
    return None


def use_diskcache(folder: Path) -> Any:
    cache = cache_of(folder)
    for n in range(20):
        cache.set(f"k{n}", "v" * n, tag="even" if n % 2 == 0 else None)
    added = cache.add("k1", "not added"), cache.add("fresh", b"\0\xff")
    with cache.transact():
        cache.incr("counter", 5)
        cache.incr("counter", 2)
    cache.set(("a", 1.5), {"pickled": True})
    popped = cache.pop("k3")
    deleted = cache.delete("k4"), cache.delete("nothing")
    evicted = cache.evict("even")
    pushed = [cache.push(n) for n in range(3)]
    pulled = cache.pull()
    found = [len(cache), cache["counter"], cache.get("k5"), cache[("a", 1.5)], cache.volume() > 0]
    checked = len(cache.check())
    cache.reset("cull_limit", 3)
    cache.close()
    return [added, popped, deleted, evicted, pushed, pulled, found, checked]


STEPS: dict[str, Callable[[Path], Any]] = {
    name: step
    for name, step in globals().items()
    if callable(step) and name.partition("_")[0] in ("make", "use", "alter", "save", "grow", "enjoy")
}


def run(program: str, step: str, folder: Path) -> Any:
    """Have a program do a step in a process of its own, and return what its queries answered."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-I", __file__, program, step, folder],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


if __name__ == "__main__":
    _, program, wanted, place = sys.argv
    print(json.dumps(STEPS[f"{wanted}_{program}"](Path(place)), default=str))  # noqa: T201
