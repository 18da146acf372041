"""What projects hold beside bytes of images, and limits of their own. Staged data of before is charged to the projects of its images."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

STAGED = (
    "UPDATE copies SET project = (SELECT owner FROM images WHERE images.id = copies.image_id) "
    "WHERE store = 'os_glance_staging_store' AND project IS NULL"
)


def upgrade() -> None:
    for name in ("staged_bytes", "images", "uploading"):
        op.add_column("usage", sa.Column(name, sa.BigInteger, nullable=False, server_default="-1"))
    for name in ("most_bytes", "most_staged_bytes", "most_images", "most_uploading"):
        op.add_column("usage", sa.Column(name, sa.BigInteger))
    op.execute(STAGED)
