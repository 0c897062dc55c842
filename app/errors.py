"""What Pantry refuses, beyond what b1 already does. The client receives each of them as a problem document.

Codes are stable; docs/reference/app.md has a line for each.
"""

from __future__ import annotations

from b1 import Forbidden, MalformedRequest, RequestError, Unauthenticated


class InvalidLogin(Unauthenticated):
    """No such account, or not its password: one answer for both, so that nobody can list our accounts."""

    code, title = "INVALID_LOGIN", "E-mail address or password is wrong"


class OrganizationRequired(MalformedRequest):
    """The caller belongs to several organisations, or to none, and the request names none."""

    code, title = "ORGANIZATION_REQUIRED", "Name the organisation in the X-Organization-Id header"


class OrganizationForbidden(Forbidden):
    """A foreign organisation or an unknown one: one answer for both, so that nobody can list our tenants."""

    code, title = "ORGANIZATION_FORBIDDEN", "You may not act in this organisation"


class DeleteForbidden(Forbidden):
    code, title = "DELETE_FORBIDDEN", "A MEMBER may delete only what they created"


class EntityNotFound(RequestError):
    code, status, title = "ENTITY_NOT_FOUND", 404, "There is no such entity in this organisation"


class VersionConflict(RequestError):
    """The caller changed something that somebody else has changed since."""

    code, status, title = "VERSION_CONFLICT", 409, "The entity has another version by now"


class EntityTooLarge(RequestError):
    code, status, title = "ENTITY_TOO_LARGE", 422, "The entity's attributes would exceed 32 KiB"


class PropertyUnknown(RequestError):
    code, status, title = "PROPERTY_UNKNOWN", 422, "There is no such property in this organisation"
