Feature: Preload
  A pool with preload is loaded when Corral starts; another one waits for its first request.

  Scenario: One is loaded, one is not
    Given a pool "warm" that is preloaded
    And a pool "cold" with 1 slot
    When Corral runs
    Then "warm" is ready by itself
    And no engine of "cold" runs
    When "cold" is asked
    Then the answer is 200
