Feature: The breaker
  Five failures in 60 s open it: requests are refused at once, with a time, and a restart by hand closes it.

  Scenario: Five failures open it
    Given a pool "crashy" whose engine exits with 3 when it starts
    When "crashy" is asked
    Then the answer is 503 POOL_UNAVAILABLE
    And the answer says when to come back
    And the breaker of "crashy" is open
    And "crashy" was started 5 times

  Scenario: A restart by hand closes it
    Given a pool "crashy" whose engine exits with 3 until it is mended
    When "crashy" is asked
    Then the answer is 503 POOL_UNAVAILABLE
    And the breaker of "crashy" is open
    When the engine of "crashy" is mended
    And "crashy" is restarted
    Then "crashy" is ready by itself
    And the breaker of "crashy" is closed
