"""Functions under AsyncLRU and AsyncTTL keep their types."""

from collections.abc import Awaitable
from typing import Any, assert_type

from agent_cache import AsyncLRU, AsyncLRUInvalidator, AsyncTTL


@AsyncLRU(maxsize=10)
async def get_user(user_id: int, limit: int = 10) -> list[str]:
    return []


@AsyncTTL(60)
def price(sku: str) -> float:
    return 1.0


@AsyncLRUInvalidator(get_user, clear_all=True)
async def update_user(user_id: int, data: str) -> bool:
    return True


class Users:
    @AsyncLRU(skip_args=1)
    async def get(self, user_id: int) -> str:
        return ""


async def uses() -> None:
    assert_type(await get_user(1, limit=2), list[str])
    assert_type(price("a"), float)
    assert_type(await update_user(1, "x"), bool)
    assert_type(await Users().get(1), str)
    assert_type(get_user.invalidate_cache(1), Awaitable[None])
    await get_user.clear_cache()
    assert_type(get_user.get_metrics(), dict[str, Any])
    await get_user("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    price()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
