"""The two languages of the views: which one a reader has, and what the frame of a view says.

What one view says stands with that view (`View.CHINESE`).
"""

from __future__ import annotations

import os

ENGLISH, CHINESE = "en", "zh"

FRAME = {
    "waiting for the first look": "正在等待第一次读数",
    "live": "实时",
    "no news any more; this was the last": "不再有更新；这是最后的状态",
    "asked; the notebook's kernel is busy": "已请求；笔记本的内核正忙",
    "not visible to you": "对你不可见",
    "not here": "这里没有",
    "no limit": "无限制",
    "none": "无",
    "read from {source}": "读自 {source}",
}
"""What all views may say."""

REASONS = {
    "the container ended": "容器已结束",
    "the kernel ended": "内核已结束",
    "the cell ended": "单元格已结束",
    "newer views took its place": "已被更新的视图取代",
    "stopped": "已停止",
}
"""Why a view ends."""


def of_the_user() -> str:
    """The language of the user's locale."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if os.environ.get(name):
            return nearest(os.environ[name])
    return ENGLISH


def nearest(wanted: str) -> str:
    """The language of ours for a tag (`zh-CN`) or a locale (`zh_CN.UTF-8`)."""
    return CHINESE if wanted.lower().startswith("zh") else ENGLISH


def reason(english: str, spoken: str) -> str:
    """Why a view ended, in the reader's language where it is one of the usual reasons."""
    return REASONS.get(english, english) if spoken == CHINESE else english
