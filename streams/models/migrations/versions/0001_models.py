"""Models, their versions and baselines, training runs, and who switched what."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "models",
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("alias", sa.String(200), primary_key=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "versions",
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("alias", sa.String(200), primary_key=True),
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("manifest", sa.JSON),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "baselines",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("baseline", sa.JSON, nullable=False),
    )
    _events()


def _events() -> None:
    op.create_table(
        "training_runs",
        sa.Column("id", sa.String(200), primary_key=True),
        sa.Column("alias", sa.String(200), nullable=False, index=True),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("request", sa.JSON, nullable=False),
        sa.Column("progress", sa.JSON, nullable=False),
        sa.Column("digest", sa.String(64)),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "activations",
        sa.Column("id", sa.String(200), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("alias", sa.String(200), nullable=False, index=True),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("state", sa.JSON, nullable=False),
        sa.Column("by", sa.String(200), nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    """Drops them."""
    for table in ("activations", "training_runs", "baselines", "versions", "models"):
        op.drop_table(table)
